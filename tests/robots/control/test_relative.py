"""Actions that a policy predicts relative to an observation: they are added to its latest value, in units."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.robots.control import PolicyRunner, Rhythm, VirtualClock, sample_actions
from fewstep.runtime.bundle.manifest import Affine, Policy
from fewstep.runtime.kinds.policies import action_origin
from tests.refusals import refuses
from tests.robots.control.looping_runner import RATE
from tests.robots.control.tiny_policy import tiny_policy

UNITS = Affine((2.0, 2.0), (0.5, 0.5))
ROWS = 2 * np.array([0.0, 0.1, 0.2, 0.3]) + 0.5  # of the network, in units
POLICY = Policy(1, 0, 2, relative_to="state", relative=(0,))
WINDOW = {"state": np.array([[10.0, 20.0]])}


def network(x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.array([0.0, 0.1, 0.2, 0.3])[:, None], x.shape)


def test_relative_elements_are_added_to_the_latest_observation(tiny_bundle: Path) -> None:
    policy = Policy(2, 1, 2, relative_to="state", relative=(1,))
    sampler = tiny_policy(tiny_bundle, network, policy, shape=(4, 2), units=UNITS)
    actions = sample_actions(sampler, "ddim:1", {"state": np.array([[7.0, 8.0], [10.0, 20.0]])})
    np.testing.assert_allclose(actions, np.stack([ROWS[1:], ROWS[1:] + 20], axis=1), rtol=1e-6)


def test_decided_actions_are_repeated_wherever_the_robot_has_moved(tiny_bundle: Path) -> None:
    sampler = tiny_policy(tiny_bundle, network, POLICY, shape=(4, 2), units=UNITS)
    former = np.array([[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    actions = sample_actions(sampler, "ddim:2", WINDOW, former=former, decided=2)
    np.testing.assert_allclose(actions[:2], former[:2], rtol=1e-6)
    np.testing.assert_allclose(actions[2:], np.stack([ROWS[2:] + 10, ROWS[2:]], axis=1), rtol=1e-6)


def test_a_runner_adds_each_sequence_to_its_own_observation(tiny_bundle: Path) -> None:
    sampler = tiny_policy(tiny_bundle, network, POLICY, shape=(4, 2), units=UNITS)
    runner = PolicyRunner(sampler, Rhythm(RATE, "ddim:1"), clock=VirtualClock())
    sent = [runner.act({"state": [position, 0.0]}).value for position in (10.0, 11.0, 20.0, 21.0)]
    first = [float(action[0]) for action in sent if action is not None]
    np.testing.assert_allclose(first, [ROWS[0] + 10, ROWS[1] + 10, ROWS[0] + 20, ROWS[1] + 20], rtol=1e-6)


def test_a_window_without_the_observation_is_refused(tiny_bundle: Path) -> None:
    policy = Policy(1, 0, 2, relative_to="joints", relative=(0,))
    sampler = tiny_policy(tiny_bundle, network, policy, shape=(4, 2))
    with refuses(("the window has no 'joints', which actions are relative to",)):
        sample_actions(sampler, "ddim:1", WINDOW)


def test_an_observation_without_its_axis_is_refused(tiny_bundle: Path) -> None:
    manifest = tiny_policy(tiny_bundle, network, POLICY, shape=(4, 2)).bundle.manifest
    with refuses(("relative to 'state' of the shape [2]",), "[observations, elements]"):
        action_origin(manifest, {"state": np.zeros(2)})


def test_an_observation_without_the_element_is_refused(tiny_bundle: Path) -> None:
    sampler = tiny_policy(tiny_bundle, network, POLICY, shape=(4, 2))
    with refuses(("element 0 of an action is relative to 'state', which has 0 elements",)):
        sample_actions(sampler, "ddim:1", {"state": np.zeros((1, 0))})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"relative": (0,)}, "it has one of relative_to and relative without the other"),
        ({"relative_to": "state"}, "it has one of relative_to and relative without the other"),
        ({"relative_to": "state", "relative": (0, 2)}, "relative=[0, 2] of samples [4, 2]"),
        ({"relative_to": "state", "relative": (1,), "width": 1}, "relative=[1] of samples [4, 2]"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(
    tiny_bundle: Path, fields: dict[str, object], problem: str
) -> None:
    manifest = tiny_policy(tiny_bundle, network, shape=(4, 2)).bundle.manifest
    assert Policy(1, 0, 2, **fields).problem(manifest) == problem  # type: ignore[arg-type]


def test_the_description_names_relative_elements(tiny_bundle: Path) -> None:
    manifest = tiny_policy(tiny_bundle, network, POLICY, shape=(4, 2)).bundle.manifest
    assert POLICY.describe(manifest).endswith("; elements 0 of an action are relative to those of state")
