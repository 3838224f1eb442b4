"""Requests of LeRobot's asynchronous inference: a robot's instructions, its observations, and its actions.

A client calls Ready, sends its instructions and then observations, and asks for actions. The server samples a sequence
from the latest observation. The messages are those of `lerobot.async_inference` of LeRobot 0.4 and 0.6.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.robots.serving.arrays import describe_value
from fewstep.robots.serving.pickles import FIX, Made, read_pickle, write_timed_actions
from fewstep.robots.serving.served_policy import ServedPolicy
from fewstep.runtime.protobuf import BYTES, VARINT, encode_content, read_varint, spans

SERVICE = "transport.AsyncInference"
MODULES = ("lerobot.async_inference.helpers", "lerobot.scripts.server.helpers")
OBSERVATION, PICTURES = "observation", "observation.images."
MOST_BYTES = 64 * 2**20  # of an observation
MEASURED = (np.ndarray, np.number, np.bool_, int, float)  # classes of a robot's measurements
LARGEST_STEP = 2**31 - 2**16  # of an observation, so that the steps of its actions have 32 bits
LATEST = 2.0**40  # seconds of a timestamp


@dataclass(frozen=True)
class Instructions:
    """What a robot asks for: the features of its observations, and the number of actions of a sequence."""

    features: Mapping[str, Mapping[str, Any]]
    actions: int
    renamed: Mapping[str, str]
    policy: str


@dataclass(frozen=True)
class TimedObservation:
    """An observation at a step. `module`: LeRobot's module of its class. `must_go`: whether the robot has no actions
    left, so that the observation must not be left out."""

    values: Mapping[str, object]
    timestamp: float
    step: int
    must_go: bool
    module: str


class LeRobotSession:
    """The requests of one robot, in order.

    rate: actions per second, from which the times of actions are computed.
    """

    def __init__(self, policy: ServedPolicy, rate: float) -> None:
        self._policy, self._rate = policy, rate
        self._episode = policy.begin_episode()
        self._instructions: Instructions | None = None
        self._latest: TimedObservation | None = None
        self._last_step: int | None = None  # of the last observation from which actions were sampled

    def instruct(self, content: bytes) -> str:
        """Take the robot's instructions, and return the policy that it asks for."""
        self._instructions = read_instructions(content)
        return self._instructions.policy

    def observe(self, content: bytes) -> bool:
        """Take an observation. Return whether actions must be sampled from it: not again for the same step, unless the
        robot has no actions left."""
        if self._instructions is None:
            raise UserError("an observation came before the instructions", FIX)
        timed = read_observation(content)
        measured = {name: value for name, value in timed.values.items() if isinstance(value, MEASURED)}
        arranged = {**measured, **arrange_features(measured, self._instructions)}
        self._episode.observe(self._policy.observations.arrange(arranged, resizes=True), timed.step)
        self._latest = timed
        return timed.must_go or timed.step != self._last_step

    def sample(self) -> bytes:
        """Return the actions from the latest observation on."""
        assert self._latest is not None and self._instructions is not None
        timed, self._last_step = self._latest, self._latest.step
        task = timed.values.get("task")
        actions = self._episode.sample(task if isinstance(task, str) else None)[: self._instructions.actions]
        return write_timed_actions(actions, timed.module, timed.timestamp, timed.step, 1 / self._rate)


def read_instructions(content: bytes) -> Instructions:
    """Read a pickled RemotePolicyConfig."""
    state, _ = _read_fields(content, "RemotePolicyConfig")
    features, actions, renamed = state.get("lerobot_features"), state.get("actions_per_chunk"), state.get("rename_map")
    if not isinstance(features, dict) or not all(map(_is_feature, features.values())):
        raise UserError("the instructions have no features", FIX)
    if type(actions) is not int or not 1 <= actions < LARGEST_STEP:
        raise UserError(f"actions_per_chunk is {describe_value(actions)}", "give a number from 1 on")
    if renamed is None:
        renamed = {}
    if not isinstance(renamed, dict) or not all(isinstance(name, str) for name in renamed.values()):
        raise UserError("rename_map is not a dict of names", FIX)
    asked = (describe_value(state.get(name)) for name in ("policy_type", "pretrained_name_or_path"))
    return Instructions(features, actions, renamed, " ".join(asked))


def _is_feature(feature: object) -> bool:
    """Return whether a feature has a type as text, and names that are a list of texts, or none."""
    if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
        return False
    names = feature.get("names")
    return names is None or (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names))


def read_observation(content: bytes) -> TimedObservation:
    """Read a pickled TimedObservation."""
    state, module = _read_fields(content, "TimedObservation")
    values, step, timestamp = state.get("observation"), state.get("timestep"), state.get("timestamp")
    if not isinstance(values, dict):
        raise UserError("the observation is not a dict of measurements", FIX)
    if type(step) is not int or not 0 <= step < LARGEST_STEP:
        raise UserError(f"the timestep of the observation is {describe_value(step)}", FIX)
    if not isinstance(timestamp, float | int) or not abs(timestamp) < LATEST:
        raise UserError(f"the timestamp of the observation is {describe_value(timestamp)}", FIX)
    return TimedObservation(values, float(timestamp), step, state.get("must_go") is True, module)


def _read_fields(content: bytes, kind: str) -> tuple[dict[str, object], str]:
    """Return the fields of a pickled dataclass of LeRobot, and its module."""
    message = read_pickle(content)
    if not isinstance(message, Made) or message.kind.name != kind or message.kind.module not in MODULES:
        raise UserError(f"the message is not a {kind} of LeRobot", FIX)
    if not isinstance(message.state, dict):
        raise UserError(f"the {kind} has no fields", FIX)
    return message.state, message.kind.module


def arrange_features(values: Mapping[str, object], instructions: Instructions) -> dict[str, object]:
    """Return a robot's measurements by LeRobot's names of features, as its `build_dataset_frame` does: the motors as
    one vector, and each camera's picture."""
    arranged = dict[str, object]()
    for name, feature in instructions.features.items():
        kind, source = feature.get("dtype"), name.removeprefix(PICTURES)
        policy_name = instructions.renamed.get(name, name)
        if kind in ("image", "video"):
            if source in values:
                arranged[policy_name] = values[source]
        elif kind == "float32" and name.startswith(OBSERVATION):
            names = feature.get("names")
            if missing := [name] if names is None else [element for element in names if element not in values]:
                raise UserError(f"the observation has no {missing[0]!r:.80}", FIX)
            arranged[policy_name] = [values[element] for element in names or ()]
    return arranged


def read_chunk(message: bytes) -> tuple[int, bytes]:
    """Return the transfer state and the data of a part of an observation, which is encoded by protobuf.

    A part has field 1, a number from 0 to 3, and field 2, bytes. Other fields are refused.
    """
    state, data = 0, b""
    for field, value in _fields(message):
        if field == 1 and isinstance(value, int):
            state = value
        elif field == 2 and isinstance(value, bytes):
            data = value
        else:
            raise UserError("a message has an unknown field", FIX)
    return state, data


def read_setup(message: bytes) -> bytes:
    """Return the data of the instructions, field 1 of a message of protobuf."""
    values = [value for field, value in _fields(message) if field == 1 and isinstance(value, bytes)]
    if len(values) != 1:
        raise UserError("the instructions have no data", FIX)
    return values[0]


def write_actions(data: bytes) -> bytes:
    """Return a message of protobuf whose field 1 is the data; an empty message for no data."""
    return encode_content(1, data) if data else b""


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of each field of a message of protobuf that is a number or bytes."""
    try:
        for field, kind, start, end in spans(message, 0, len(message)):
            if kind == VARINT:
                yield field, read_varint(message, start, end)[0]
            elif kind == BYTES:
                yield field, message[start:end]
            else:
                raise ValueError(f"it has a field of type {kind}")
    except ValueError as error:
        raise UserError(f"a message is not of protobuf: {error}", FIX) from error
