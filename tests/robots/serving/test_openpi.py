"""Messages of openpi's clients: an observation becomes actions, and faults one line."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.plans.errors import UserError
from fewstep.robots.serving.observations import Observations
from fewstep.robots.serving.openpi import answer_observation, decode_observation
from fewstep.runtime.bundle.manifest import Condition
from tests.robots.serving.served import CAMERA, STATE, make_policy


def pack_value(value: Any) -> Any:
    """Arrays and numbers as `openpi_client.msgpack_numpy` writes them."""
    if isinstance(value, dict):
        return {name: pack_value(content) for name, content in value.items()}
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return value


def message(**values: Any) -> bytes:
    return msgspec.msgpack.encode(pack_value(values))


def test_arrays_numbers_and_texts_are_read() -> None:
    read = decode_observation(message(a=STATE, b=np.float64(0.25), c="x", d={"e": np.zeros((2, 0)), "f": None}, g=[1]))
    assert [*read] == ["a", "b", "c", "d/e", "d/f", "g"]
    assert np.array_equal(read["a"], STATE) and read["b"] == 0.25 and read["d/e"].shape == (2, 0)


def array(**changes: Any) -> dict[bytes, Any]:
    return pack_value(STATE) | {name.encode(): value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("text", "the message is text"),
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (b"\x91" * 100_000, "not msgpack"),
        (b"\xdd\xff\xff\xff\xff", "not msgpack"),
        (msgspec.msgpack.encode([1]), "the message is a list"),
        (msgspec.msgpack.encode({5: 1}), "a name that is not text: 5"),
        (message(a=array(dtype="O")), "the type 'O'"),
        (message(a=array(dtype="f4,i4")), "the type 'f4,i4'"),
        (message(a=array(dtype="(2,)f4")), "the type"),
        (message(a=array(dtype="nonsense")), "'a' cannot be read"),
        (message(a=array(dtype=7)), "the type 7"),
        (message(a=array(shape=[3])), "of the shape .* has 8 bytes"),
        (message(a=array(shape=[-2])), "the shape"),
        (message(a=array(shape=[2**62, 2**62])), "the shape"),
        (message(a=array(shape=[2**31 - 1] * 100_000)), "at most 32 axes"),
        (message(a=array(dtype="f4," * 100_000)), "the type"),
        (message(a={b"__npgeneric__": True, b"dtype": "<f4", b"data": [1.0] * 9}), "its data is not a number"),
        (message(a=array(shape=5)), "'a' cannot be read"),
        (message(a=array(data=None)), "'a' cannot be read"),
        (message(a={b"__ndarray__": True}), "b'dtype' is missing"),
        (message(a={b"__npgeneric__": True, b"dtype": "<f4", b"data": "x"}), "'a' cannot be read"),
    ],
)
def test_what_is_no_observation_is_one_line(content: bytes | str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        decode_observation(content)


def test_maps_within_maps_are_limited() -> None:
    nested: dict[str, Any] = {"a": 1}
    for _ in range(50):
        nested = {"a": nested}
    with pytest.raises(UserError, match="more than 16 maps"):
        decode_observation(msgspec.msgpack.encode(nested))


def decode_answer(answer: bytes) -> dict[str, Any]:
    content: dict[str, Any] = msgspec.msgpack.decode(answer)
    actions = content["actions"]
    content["actions"] = np.frombuffer(actions[b"data"], actions[b"dtype"]).reshape(actions[b"shape"])
    return content


def test_an_observation_is_answered_by_a_sequence(tiny_bundle: Path) -> None:
    policy = make_policy(tiny_bundle, renamed={"joints": "state"})
    answer = decode_answer(answer_observation(policy, policy.begin_episode(), message(joints=STATE, prompt="go"), 12.5))
    assert answer["actions"].shape == (16, 2) and answer["actions"].dtype == np.float32
    assert np.allclose(answer["actions"][:3, 1], [0, 0.01, 0.02], atol=1e-6)
    assert answer["server_timing"]["prev_total_ms"] == 12.5 and answer["server_timing"]["infer_ms"] >= 0


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "the observation has no 'state'"),
        ({"state": np.zeros(3)}, "state"),
        ({"state": np.full(2, np.nan)}, "state"),
        ({"state": "text"}, "state"),
        ({"state": STATE, "prompt": 5}, "the prompt is 5"),
    ],
)
def test_an_unusable_observation_is_one_line(tiny_bundle: Path, values: dict[str, Any], line: str) -> None:
    policy = make_policy(tiny_bundle)
    episode = policy.begin_episode()
    with pytest.raises(UserError, match=line):
        answer_observation(policy, episode, message(**values))
    assert answer_observation(policy, episode, message(state=STATE))


@pytest.mark.parametrize("name", ["observation/images/top", "observation.images.top"])
def test_a_picture_is_taken_in_either_layout(tiny_bundle: Path, name: str) -> None:
    policy = make_policy(tiny_bundle, others=(CAMERA,))
    picture = np.arange(72, dtype=np.uint8).reshape(3, 4, 6)
    for given in (picture, np.moveaxis(picture, 0, -1)):
        arranged = policy.observations.arrange(decode_observation(message(**{"state": STATE, name: given, "other": 1})))
        assert {*arranged} == {"state", CAMERA.name} and np.array_equal(arranged[CAMERA.name], picture)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.zeros((8, 12, 3), np.uint8), r"uint8 \[8, 12, 3\]; send uint8 \[4, 6, 3\] or \[3, 4, 6\]"),
        (np.zeros((4, 6), np.uint8), r"uint8 \[4, 6\]"),
        (np.zeros((4, 6, 3), np.float32), r"float32 \[4, 6, 3\]"),
    ],
)
def test_a_picture_of_another_size_or_type_is_refused_as_the_client_sent_it(
    tiny_bundle: Path, picture: np.ndarray, said: str
) -> None:
    policy = make_policy(tiny_bundle, others=(CAMERA,), renamed={"front": CAMERA.name})
    with pytest.raises(UserError, match=rf"the picture 'front' is {said}"):
        policy.observations.arrange({"state": STATE, "front": picture})


@pytest.mark.parametrize("shape", [(3, 4, 6), (4, 6, 3)])
def test_numbers_with_three_axes_are_no_picture_unless_the_condition_is_uint8(shape: tuple[int, ...]) -> None:
    depths = Observations({"depths": Condition("depths", "depths", (3, 4, 6), "float32")})
    arranged = depths.arrange({"depths": np.full(shape, 0.5, np.float32)})["depths"]
    np.testing.assert_array_equal(arranged, np.full((3, 4, 6), 0.5, np.float32))


def test_a_measurement_under_two_names_is_refused(tiny_bundle: Path) -> None:
    policy = make_policy(tiny_bundle, renamed={"joints": "state"})
    with pytest.raises(UserError, match="has 'state' twice"):
        policy.observations.arrange({"joints": STATE, "state": STATE})


def test_a_name_for_no_condition_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="no condition 'stat'; rename to state"):
        make_policy(tiny_bundle, renamed={"joints": "stat"})


def test_sequences_have_their_own_seeds(tiny_bundle: Path) -> None:
    policy = make_policy(tiny_bundle, seed=5)
    policy.warm_up()
    assert policy.latencies.count == 0
    episode = policy.begin_episode()
    for _ in range(3):
        episode.observe({"state": STATE})
        episode.sample()
    assert policy.latencies.count == 3 and next(policy._seeds) == 8
