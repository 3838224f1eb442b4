"""Fine-tuning of the benchmark's policy: what it records, at which times it trains, and its loss."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks.policy import fine_tune, rollouts
from benchmarks.policy.simulator import TASKS
from fewstep.models.training import generator_of
from tests.benchmarks.test_policy import Line, forward


@pytest.fixture
def recorded(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> fine_tune.Arrays:
    """Two episodes of each task, in which a policy that always moves on needs 20 ticks."""
    monkeypatch.setattr(rollouts, "Simulation", Line)
    monkeypatch.setattr(rollouts, "LONGEST", 60)
    return fine_tune.record(forward(tiny_bundle), 2)


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = fine_tune.policy_module()
    monkeypatch.setattr(module, "WIDTHS", (8, 16, 16))
    torch.manual_seed(0)
    return module


def test_successes_are_recorded_for_a_horizon_longer(recorded: fine_tune.Arrays) -> None:
    """Seeds that are multiples of 3 are never solved, and the first seed is one."""
    assert recorded["usable"].tolist() == [20] * len(TASKS)
    assert recorded["starts"].tolist() == [52 * place for place in range(len(TASKS))]
    assert recorded["tasks"].tolist() == list(range(len(TASKS)))
    assert recorded["seen"].shape == (52 * len(TASKS), 39) and recorded["done"].shape == (52 * len(TASKS), 4)


def test_an_observation_is_recorded_with_the_action_that_follows_it(recorded: fine_tune.Arrays) -> None:
    moved = np.diff(recorded["seen"][:52, 0].astype(np.float64))
    np.testing.assert_allclose(moved, 0.05 * recorded["done"][:51, 0], atol=1e-6)


def test_times_move_towards_noise() -> None:
    shifted = fine_tune.shift_times(torch.tensor([0.0, 0.25, 0.5, 1.0]))
    torch.testing.assert_close(shifted, torch.tensor([0.0, 0.5, 0.75, 1.0]))


def test_the_loss_of_no_answer_is_that_of_the_velocity(recorded: fine_tune.Arrays, policy: ModuleType) -> None:
    """The velocity is noise less actions, and the actions here are 1: 1 + 1."""
    network = policy.Network()
    for parameter in network.unet.final_conv[-1].parameters():
        torch.nn.init.zeros_(parameter)
    loss = fine_tune.shifted_loss(policy, recorded, 256)(network, generator_of(0, 0)).item()
    assert loss == pytest.approx(1 + np.square(recorded["done"]).mean(), rel=0.05)
