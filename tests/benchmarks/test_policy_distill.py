"""Distillation of the benchmark's policy: the observations, the pairs, and the loss."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks.policy import distill
from benchmarks.policy.simulator import TASKS
from fewstep.models.training import generator_of, learning_rate
from fewstep.plans.compile import compile_plan
from fewstep.plans.noise import normal_batch
from fewstep.plans.spec import DenoiserFacts
from tests.benchmarks.test_policy import LINES, forward
from tests.refusals import refuses


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two episodes of each task, in which a policy that always moves on needs 20 ticks."""
    monkeypatch.setattr(distill, "METAWORLD", LINES)
    monkeypatch.setattr(distill, "EPISODES", 2)
    monkeypatch.setattr(distill, "WATCHED", 2)


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = distill.policy_module()
    monkeypatch.setattr(module, "WIDTHS", (8, 16, 16))
    torch.manual_seed(0)
    return module


def test_all_ticks_of_the_teacher_s_successes_are_observed(tiny_bundle: Path) -> None:
    """The first seed is a multiple of 3, which is never solved."""
    found = distill.observe_teacher(forward(tiny_bundle))
    assert np.bincount(found["task"]).tolist() == [20] * len(TASKS)
    np.testing.assert_allclose(found["seen"][:20, 0], 0.05 * np.arange(20), atol=1e-6)


def test_a_student_is_observed_where_it_samples(tiny_bundle: Path) -> None:
    """Every 8 ticks: 3 sequences in the 20 ticks of each of two episodes, which are both solved."""
    found = distill.observe_student(distill.STUDENTS[0], forward(tiny_bundle))
    assert np.bincount(found["task"]).tolist() == [6] * len(TASKS)
    assert found["seen"].shape == (6 * len(TASKS), 39)


def test_pairs_are_the_teacher_s_actions_of_their_seeds(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network whose actions depend on the noise, and clipped as in episodes."""
    seen = {"seen": np.zeros((6, 39), np.float32), "task": np.arange(6) % len(TASKS)}
    monkeypatch.setattr(distill, "observe_teacher", lambda sampler: seen)
    monkeypatch.setattr(distill, "STUDENTS", ())
    monkeypatch.setattr(distill, "BATCH", 4)
    sampler = forward(tiny_bundle, lambda x: 2 * x)
    pairs = distill.make_pairs(sampler)
    condition = {"observation": np.zeros((1, 1, 39), np.float32), "task": np.zeros((1, len(TASKS)), np.float32)}
    plan = sampler.compile("dpmpp_2m:3", shaping=distill.LIMITS)
    alone = [sampler.sample(plan, [seed], condition)[0] for seed in pairs["seeds"].tolist()]
    np.testing.assert_allclose(pairs["done"], np.stack(alone), atol=1e-6)
    assert len({each.tobytes() for each in pairs["done"]}) == 6 and np.abs(pairs["done"]).max() == 1


def test_pairs_have_up_to_half_as_many_observations_of_a_student(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "STUDENTS", distill.STUDENTS[:1])
    monkeypatch.setattr(distill, "OBSERVATIONS", 10)
    pairs = distill.make_pairs(forward(tiny_bundle))
    assert {name: len(values) for name, values in pairs.items()} == dict.fromkeys(("seen", "task", "seeds", "done"), 15)
    assert len({*pairs["seeds"].tolist()}) == 15


def loss_of(policy: ModuleType, done: np.ndarray) -> float:
    """The loss of a network whose velocity is 0, so that its actions are the noise."""
    count = len(done)
    pairs = {
        "seen": np.zeros((count, 39), np.float32),
        "task": np.zeros(count, np.int64),
        "seeds": np.arange(count),
        "done": done,
    }
    network = policy.Network()
    for parameter in network.unet.final_conv[-1].parameters():
        torch.nn.init.zeros_(parameter)
    return distill.distillation_loss(policy, pairs, 16)(network, generator_of(0, 0)).item()


def test_the_loss_is_zero_for_the_teacher_s_actions(policy: ModuleType) -> None:
    assert loss_of(policy, normal_batch(range(8), 0, (32, 4))) == 0


def test_later_actions_count_less(policy: ModuleType) -> None:
    """An error of 1 in all actions: 10 with a weight of 1, and 22 of 0.3."""
    loss = loss_of(policy, normal_batch(range(8), 0, (32, 4)) + np.float32(1))
    assert loss == pytest.approx((10 + 0.3 * 22) / 32, rel=1e-5)


def test_one_step_goes_from_noise_alone_by_the_velocity(policy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the time of noise, as `dpmpp_2m:1` does, and without decided actions."""
    asked = list[tuple[torch.Tensor, ...]]()

    def predict(_: object, x: torch.Tensor, time: torch.Tensor, known: object, *prefix: torch.Tensor) -> torch.Tensor:
        asked.append((time, *prefix))
        return torch.ones_like(x)

    monkeypatch.setattr(policy.Network, "predict", predict)
    assert loss_of(policy, normal_batch(range(8), 0, (32, 4)) - np.float32(1)) == 0
    ((time, *prefix),) = asked
    facts = DenoiserFacts(policy.spec(((0.0,) * 39, (1.0,) * 39)).schedule, "flow")
    assert {*time.tolist()} == {compile_plan("dpmpp_2m:1", facts).steps[0].time}
    assert not any(each.any() for each in prefix)


def test_the_rate_falls_from_the_step_that_the_page_states() -> None:
    steps = distill.RECIPE.steps
    assert learning_rate(2_560, steps, 1.0) == 1 > learning_rate(2_561, steps, 1.0)


def test_pairs_of_other_weights_are_refused(tmp_path: Path) -> None:
    """Their checkpoint would be continued."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    distill.write_pairs(distill.pairs_file(tmp_path, first), {"seeds": np.arange(3)})
    with np.load(distill.pairs_file(tmp_path, first)) as arrays:
        assert arrays["seeds"].tolist() == [0, 1, 2]
    with refuses("has the pairs of other weights, pairs-", "give another folder for WORK"):
        distill.pairs_file(tmp_path, second)


def test_weights_that_are_not_there_are_refused_with_the_way_to_them(tmp_path: Path) -> None:
    with refuses("policy.safetensors", "fetch_weights"):
        distill.pairs_file(tmp_path, tmp_path / "policy.safetensors")
