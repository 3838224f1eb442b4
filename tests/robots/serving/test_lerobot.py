"""The requests of LeRobot's client, without gRPC: an observation becomes actions, and faults one line."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.plans.errors import UserError
from fewstep.robots.serving.lerobot import LeRobotSession, read_chunk, read_setup, write_actions
from fewstep.robots.serving.pickles import read_pickle
from tests.robots.serving.served import (
    CAMERA,
    FEATURES,
    TimedObservation,
    instructions,
    make_policy,
    observation,
    pickle_object,
)

JOINTS = {"a.pos": 0.5, "b.pos": -0.5}


@pytest.fixture
def session(tiny_bundle: Path) -> LeRobotSession:
    session = LeRobotSession(make_policy(tiny_bundle), 20.0)
    session.instruct(instructions(actions=3))
    return session


def test_an_observation_becomes_timed_actions(session: LeRobotSession) -> None:
    assert session.observe(observation(7, **JOINTS))
    actions = read_pickle(session.sample())
    assert [action.kind.name for action in actions] == ["TimedAction"] * 3
    assert [action.arguments[1] for action in actions] == [7, 8, 9]
    assert [round(action.arguments[0], 6) for action in actions] == [107.0, 107.05, 107.1]
    tensors = [action.arguments[2] for action in actions]
    assert {(tensor.kind.module, tensor.kind.name) for tensor in tensors} == {("torch", "tensor")}
    assert np.allclose([tensor.arguments[0] for tensor in tensors], [[0, 0], [0.01, 0.01], [0.02, 0.02]], atol=1e-6)


def test_a_step_is_sampled_twice_only_if_the_robot_has_no_actions(session: LeRobotSession) -> None:
    assert session.observe(observation(0, **JOINTS))
    session.sample()
    assert not session.observe(observation(0, **JOINTS))
    assert session.observe(observation(0, must_go=True, **JOINTS))
    assert session.observe(observation(1, **JOINTS))


def test_consecutive_observations_are_the_policys_history(tiny_bundle: Path) -> None:
    policy = make_policy(tiny_bundle, observations=2)
    windows: list[np.ndarray] = []
    policy.sample = lambda window: windows.append(window["state"]) or np.zeros((4, 2), np.float32)  # type: ignore
    session = LeRobotSession(policy, 20.0)
    session.instruct(instructions())
    for step in (0, 1, 5):
        session.observe(observation(step, **{"a.pos": float(step), "b.pos": 0.0}))
        session.sample()
    assert [window[:, 0].tolist() for window in windows] == [[0, 0], [0, 1], [5, 5]]


def test_a_picture_is_resized_as_lerobots_server_does(tiny_bundle: Path) -> None:
    policy = make_policy(tiny_bundle, others=(CAMERA,))
    windows: list[np.ndarray] = []
    policy.sample = lambda window: windows.append(window[CAMERA.name]) or np.zeros((4, 2), np.float32)  # type: ignore
    session = LeRobotSession(policy, 20.0)
    session.instruct(instructions())
    picture = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    session.observe(observation(top=picture, **JOINTS))
    session.sample()
    halved = picture.reshape(4, 2, 6, 2, 3).astype(float).mean((1, 3)).transpose(2, 0, 1)
    assert np.array_equal(windows[0][0], np.rint(halved))


def test_a_picture_of_numbers_from_0_to_1_is_not_made_black(tiny_bundle: Path) -> None:
    session = LeRobotSession(make_policy(tiny_bundle, others=(CAMERA,)), 20.0)
    session.instruct(instructions())
    with pytest.raises(UserError, match=r"images\.top"):
        session.observe(observation(top=np.full((8, 12, 3), 0.5, np.float32), **JOINTS))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "not a pickle"),
        (
            pickle_object(TimedObservation, module="os.path.join.somewhere.else.xxxx", a=1),
            "not a TimedObservation of LeRobot",
        ),
        (instructions(), "not a TimedObservation of LeRobot"),
        (observation(-1, **JOINTS), "the timestep of the observation is -1"),
        (observation(2**31, **JOINTS), "the timestep"),
        (observation(0, **{"a.pos": 0.5}), "the observation has no 'b.pos'"),
        (observation(0, **{"a.pos": "x", "b.pos": 1.0}), "the observation has no 'a.pos'"),
        (observation(0, **{"a.pos": float("nan"), "b.pos": 1.0}), "state"),
        (pickle_object(TimedObservation, timestamp=float("inf"), timestep=0, observation={}), "the timestamp"),
        (pickle_object(TimedObservation, timestamp=10**400, timestep=0, observation={}), "the timestamp"),
        (pickle_object(TimedObservation, timestamp=1.0, timestep=["x" * 99] * 99, observation={}), "is a list"),
        (observation(0, **{"a.pos": ["x" * 99] * 99, "b.pos": 1.0}), "the observation has no 'a.pos'"),
        (pickle_object(TimedObservation, timestamp=1.0, timestep=0, observation=[1]), "not a dict of measurements"),
    ],
)
def test_an_unusable_observation_is_one_line_and_the_next_is_used(
    session: LeRobotSession, content: bytes, line: str
) -> None:
    with pytest.raises(UserError, match=line):
        session.observe(content)
    assert session.observe(observation(1, **JOINTS))
    assert len(read_pickle(session.sample())) == 3


def test_an_observation_before_the_instructions_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="before the instructions"):
        LeRobotSession(make_policy(tiny_bundle), 20.0).observe(observation(0, **JOINTS))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (instructions(actions=0), "actions_per_chunk is 0"),
        (instructions(actions=True), "actions_per_chunk is True"),
        (instructions(features=[1]), "no features"),
        (instructions(features={"observation.state": 5}), "no features"),
        (instructions(actions=["x" * 99] * 99), "actions_per_chunk is a list"),
        (instructions(features={"observation.state": {"dtype": np.zeros(2)}}), "no features"),
        (instructions(features={"observation.state": {"dtype": "float32", "names": [["a"]]}}), "no features"),
        (instructions(**{"observation.images.top": 5}), "rename_map is not a dict of names"),
        (observation(0), "not a RemotePolicyConfig"),
    ],
)
def test_unusable_instructions_are_one_line(tiny_bundle: Path, content: bytes, line: str) -> None:
    with pytest.raises(UserError, match=line):
        LeRobotSession(make_policy(tiny_bundle), 20.0).instruct(content)


def test_features_without_names_are_refused(tiny_bundle: Path) -> None:
    session = LeRobotSession(make_policy(tiny_bundle), 20.0)
    session.instruct(instructions(features={"observation.state": {**FEATURES["observation.state"], "names": None}}))
    with pytest.raises(UserError, match=r"the observation has no 'observation\.state'"):
        session.observe(observation(0, **JOINTS))


def test_messages_of_protobuf_are_read_and_written() -> None:
    data = bytes(300)
    assert write_actions(data) == b"\x0a\xac\x02" + data and write_actions(b"") == b""
    assert read_setup(write_actions(data)) == data
    assert read_chunk(b"\x08\x03\x12\x02ab") == (3, b"ab") and read_chunk(b"") == (0, b"")


@pytest.mark.parametrize("message", [b"\x08", b"\x12\x05ab", b"\xff" * 20, b"\x1a\x00", b"\x0d1234", b"\x12\x01"])
def test_what_is_not_of_protobuf_is_refused(message: bytes) -> None:
    with pytest.raises(UserError, match="message"):
        read_chunk(message)
