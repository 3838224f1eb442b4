"""The pushing benchmark: contact, the script that solves it, the demonstrations, and the cut of the policy."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks/pushing"


@pytest.fixture
def discs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("discs", "pusher", "train", "measure"):  # other rooms have a train.py too
        monkeypatch.delitem(sys.modules, name, raising=False)
    import discs

    return discs


def test_the_script_solves_what_the_instruction_names(discs: ModuleType) -> None:
    begun = discs.begin(range(3_000_000, 3_000_200))
    table, solved, side = begun, np.zeros(200, bool), np.where(np.arange(200) % 2, 1, -1).astype(np.float32)
    assert not begun.solved.any()
    for _ in range(discs.TICKS):
        table = discs.move(table, discs.expert(table, side))
        solved |= table.solved
    assert solved.mean() >= 0.95
    other = discs.Table(table.pusher, table.discs, table.zones, 1 - table.disc, table.zone)
    assert other.solved.mean() < 0.05
    assert {tuple(each) for each in begun.words} == {(0, 2 + disc, 1, 4 + zone) for disc in (0, 1) for zone in (0, 1)}


def test_a_disc_leaves_along_the_motion_inside_the_cone_of_friction(discs: ModuleType) -> None:
    zones = np.array([[[0.7, 0.7], [-0.7, -0.7]]], np.float32)
    places = np.array([[[0.3, 0], [-0.5, 0.5]]], np.float32)
    table = discs.Table(np.zeros((1, 2), np.float32), places, zones, np.array([0]), np.array([0]))
    for _ in range(5):
        table = discs.move(table, np.array([[2.0, 0]], np.float32))  # clipped to 1
    np.testing.assert_allclose(table.pusher, [[5 * discs.STEP, 0]], atol=1e-6)
    np.testing.assert_allclose(table.discs, [[[5 * discs.STEP + discs.TOUCH, 0], [-0.5, 0.5]]], atol=1e-6)
    oblique = discs.move(table, np.array([[0.96, 0.28]], np.float32))  # it sticks: both move by the same
    np.testing.assert_allclose(
        oblique.discs - table.discs, [[[0.96 * discs.STEP, 0.28 * discs.STEP], [0, 0]]], atol=1e-6
    )
    beside = discs.move(table, np.array([[0.6, 0.8]], np.float32)).discs[0, 0] - table.discs[0, 0]  # it slides away
    np.testing.assert_allclose(beside, [0.0288, -0.0075], atol=1e-3)  # along the line of centres
    seen = discs.picture(table)
    assert seen.shape == (1, 3, discs.PIXELS, discs.PIXELS)
    row, column = ((np.array([0.5, -0.5]) / discs.REACH + 1) / 2 * discs.PIXELS).astype(int)
    assert seen[0, :, row, column].tolist() == [51, 76, 242]  # the blue disc, at x -0.5 and y 0.5


def test_no_random_action_is_learned(discs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import train

    monkeypatch.setattr(train, "EPISODES", 40)
    tables, actions, windows = train.demonstrations()
    assert len(tables.pusher) == 40 * train.LENGTH and 200 < len(windows) < 40 * train.LENGTH
    executed = np.clip(actions.numpy(), -1, 1)
    moved = tables.pusher.reshape(train.LENGTH, 40, 2)
    for episode, tick in windows[::7]:
        own = np.diff(moved[tick : tick + train.HORIZON, episode], axis=0) / discs.STEP
        np.testing.assert_allclose(own, executed[episode, tick : tick + train.HORIZON - 1], atol=1e-3)
        assert np.linalg.norm(own, axis=1).max() < 1.001  # a random action may be longer


def test_the_policy_sees_the_named_disc_and_drives_towards_it(discs: ModuleType) -> None:
    from pusher import SPEC, make

    network, table = make()[0].eval(), discs.begin(range(3_000_000, 3_000_064))
    picture, words = torch.from_numpy(discs.picture(table))[:, None], torch.from_numpy(table.words)
    x = torch.randn(64, *SPEC.x_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = torch.from_numpy(table.pusher)[:, None]
        velocity, points = network.predict(x, torch.full((64,), 100.0), picture, words, state)
    places = np.stack([*table.named, *table.others], axis=1) / discs.REACH
    assert np.linalg.norm(points[:, :4].numpy() - places, axis=2).mean() < 0.05
    mean = (x - velocity).numpy()[:, 0]  # at time 1 the mean of the data
    assert np.mean(np.sum(mean * (table.named[0] - table.pusher), axis=1) > 0) > 0.8
