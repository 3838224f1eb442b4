"""The judge `task`: successes of a policy's actions in an analytic environment, a point that has to reach a goal."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.measure.judges.judge import SamplePairs
from fewstep.measure.judges.options import open_judge
from fewstep.runtime.bundle.manifest import Condition, Manifest
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.policies import Policy, policy_of
from fewstep.runtime.kinds.units import Affine
from tests.refusals import refuses

ENVIRONMENT = """
import numpy as np


class Reach:
    def __init__(self, tolerance: float = 0.1):
        self.tolerance = tolerance

    def reset(self, conditions):
        self.place, self.goal = np.zeros(2), conditions["state"]

    def step(self, action):
        self.place = self.place + action
        return np.abs(self.place - self.goal).max() < self.tolerance


class Stuck:
    def reset(self, conditions):
        pass


class Vague(Reach):
    def step(self, action):
        return 0.5


class Broken(Reach):
    def step(self, action):
        return action["speed"]
"""


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    """A policy that executes actions 1 to 4 of 6, each with two joints and a padding, in units of twice the model
    range."""
    policy = Policy(observations=1, first=1, actions=4, width=2)
    units = Affine(scale=(2.0, 2.0, 0.0), shift=(0.0, 0.0, 0.0))
    return msgspec.structs.replace(
        open_bundle(tiny_bundle).manifest, x_shape=(6, 3), policy=policy, units=units, conditions=()
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "env.py"
    path.write_text(ENVIRONMENT)
    return path


def pairs(errors: list[float]) -> SamplePairs:
    """Four equal actions lead from 0 to each goal. Those of the samples miss it by an error."""
    goals = np.random.default_rng(0).uniform(-1, 1, (len(errors), 2))
    reference = np.full((len(errors), 6, 3), 9.0, np.float32)  # what is not executed does not count
    samples = reference.copy()
    reference[:, 1:5, :2] = goals[:, None] / 4 / 2
    samples[:, 1:5, :2] = (goals[:, None] + np.array(errors)[:, None, None]) / 4 / 2
    return SamplePairs(samples, reference, {"state": goals})


def test_the_score_is_the_share_of_observations_whose_actions_succeed(manifest: Manifest, file: Path) -> None:
    judge = open_judge(f"task:{file}:Reach,0.75", manifest)
    judged = judge.judge(pairs([0.0, 0.09, 0.11, 0.05]))
    assert (judged.score.value, judged.float32.value, judged.problem) == (0.75, 1.0, None)
    assert judge.name == "task:env.py:Reach,0.75"
    worse = judge.judge(pairs([0.0, 0.2, 0.11, 0.05]))
    assert worse.problem == "scores 0.5 by task:env.py:Reach,0.75, less than 0.75"
    np.testing.assert_array_equal(judge.score((these := pairs([0.0, 0.2])).samples, these)[0], [1, 0])


def test_the_function_of_an_environment_takes_arguments(manifest: Manifest, file: Path) -> None:
    judged = open_judge(f"task:{file}:Reach:0.3,1", manifest).judge(pairs([0.2] * 4))
    assert judged.score.value == 1.0


@pytest.mark.parametrize("text", ["Reach", "Reach,high", "Reach,nan", "Reach,0.3,"])
def test_a_limit_is_required(manifest: Manifest, file: Path, text: str) -> None:
    with refuses(f"{text} cannot be read", "task:FILE.py:FUNCTION,LIMIT"):
        open_judge(f"task:{file}:{text}", manifest)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Stuck", "the environment of env.py:Stuck has no method step"),
        ("Vague", "the step of env.py:Vague returned float"),
        ("Broken", "step of env.py:Broken failed: IndexError"),
    ],
)
def test_what_an_environment_does_wrong_is_one_line(manifest: Manifest, file: Path, name: str, said: str) -> None:
    with refuses(said):
        open_judge(f"task:{file}:{name},0.9", manifest).judge(pairs([0.0] * 4))


def test_relative_actions_are_added_to_the_observation(manifest: Manifest, file: Path) -> None:
    """Each adds a quarter of it. Without it, the point would never move."""
    policy = msgspec.structs.replace(policy_of(manifest), relative_to="state", relative=(0, 1))
    observation = np.array([[[0.25, 0.5]], [[1.0, -0.5]]])
    state = Condition("state", "state", (1, 2), "float32", typical=(-1.0, 1.0))
    relative = msgspec.structs.replace(manifest, policy=policy, conditions=(state,))
    file.write_text(
        ENVIRONMENT + "\n\nclass Four(Reach):\n    def reset(self, conditions):\n"
        "        self.place, self.goal = np.zeros(2), 4 * conditions['state'][0]\n"
    )
    still = np.zeros((2, 6, 3), np.float32)
    judged = open_judge(f"task:{file}:Four,1", relative).judge(SamplePairs(still, still, {"state": observation}))
    assert judged.score.value == 1.0
    with refuses("'state', which is not a condition", "FILE.py:FUNCTION"):
        open_judge(f"task:{file}:Reach,1", msgspec.structs.replace(relative, conditions=()))


def test_only_a_policy_has_a_task(tiny_bundle: Path, file: Path) -> None:
    with refuses("how many observations it takes", "Policy("):
        open_judge(f"task:{file}:Reach,0.9", open_bundle(tiny_bundle).manifest)
