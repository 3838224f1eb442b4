"""Messages of openpi's clients: observations and actions in msgpack, whose arrays are maps of bytes, type and shape.

Nothing is unpickled: an array has a type of numbers. The format is that of `openpi_client.msgpack_numpy`.
"""

import time
from collections.abc import Iterator, Mapping

import msgspec
import numpy as np

from fewstep.plans.errors import UserError
from fewstep.robots.control.chunk import Float32
from fewstep.robots.serving.arrays import describe_value, make_array, read_dtype
from fewstep.robots.serving.served_policy import Episode, ServedPolicy

FIX = "send a map of msgpack, as openpi_client does"
ARRAY, NUMBER = b"__ndarray__", b"__npgeneric__"
PROMPT = "prompt"
DEEPEST = 16  # maps within maps


def answer_observation(
    policy: ServedPolicy, episode: Episode, message: bytes | str, previous_ms: float | None = None
) -> bytes:
    """Return the actions that follow an observation, as a message. Raises UserError for an observation that cannot be
    used, and for a policy that fails."""
    began = time.perf_counter()
    observation = decode_observation(message)
    prompt = observation.pop(PROMPT, None)
    if prompt is not None and not isinstance(prompt, str):
        raise UserError(f"the prompt is {describe_value(prompt)}", "send text")
    episode.observe(policy.observations.arrange(observation))
    actions = episode.sample(prompt)
    return encode_actions(actions, 1e3 * (time.perf_counter() - began), previous_ms)


def decode_observation(message: bytes | str) -> dict[str, object]:
    """Return the observation of a message: values by name. Maps within it are joined with slashes, as openpi does.

    Raises UserError for anything else.
    """
    if isinstance(message, str):
        raise UserError("the message is text", FIX)
    try:
        content = msgspec.msgpack.decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, TypeError) as error:
        raise UserError(f"the message is not msgpack: {error}", FIX) from None
    if not isinstance(content, dict):
        raise UserError(f"the message is a {type(content).__name__}", FIX)
    return dict(_flatten(content, "", DEEPEST))


def _flatten(content: Mapping[object, object], start: str, depth: int) -> Iterator[tuple[str, object]]:
    if not depth:
        raise UserError(f"the observation has more than {DEEPEST} maps within maps", FIX)
    for name, value in content.items():
        if not isinstance(name, str):
            raise UserError(f"the observation has a name that is not text: {describe_value(name)}", FIX)
        if isinstance(value, dict) and ARRAY not in value and NUMBER not in value:
            yield from _flatten(value, f"{start}{name}/", depth - 1)
        else:
            yield start + name, _decode_value(start + name, value)


def _decode_value(name: str, value: object) -> object:
    """Return a value whose arrays are numpy arrays."""
    if not isinstance(value, dict):
        return value
    try:
        dtype = read_dtype(value[b"dtype"])
        if ARRAY in value:
            return make_array(value[b"data"], dtype, value[b"shape"])
        if not isinstance(value[b"data"], bool | int | float):
            raise ValueError("its data is not a number")
        return dtype.type(value[b"data"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{name!r:.80} cannot be read: {reason:.200}", FIX) from None


def encode_actions(actions: Float32, infer_ms: float, previous_ms: float | None) -> bytes:
    """Return the answer to an observation: the actions, and the milliseconds of this call and of the previous
    answer."""
    timing = {"infer_ms": infer_ms}
    if previous_ms is not None:
        timing["prev_total_ms"] = previous_ms
    return msgspec.msgpack.encode({"actions": _encode_array(actions), "server_timing": timing})


def encode_metadata(metadata: Mapping[str, object]) -> bytes:
    """Return the first message of a connection, which openpi's clients return as the server's metadata."""
    return msgspec.msgpack.encode(metadata)


def _encode_array(array: Float32) -> dict[bytes, object]:
    content = np.ascontiguousarray(array)
    return {ARRAY: True, b"data": content.tobytes(), b"dtype": content.dtype.str, b"shape": list(content.shape)}
