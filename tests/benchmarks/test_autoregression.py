"""The outer loop of a masked autoregressive model: which patches it draws, at which z, with how many steps."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "autoregression"))
import masked_autoregression
import outer_loop

from fewstep.models.fashion_mnist.data import DEBIAN_FOLDER


class Backbone:
    """z of a patch is what is known of the picture: the sum of its patches, and how many are open."""

    def run(self, _, fed):
        known = fed["patches"].sum((1, 2)) + fed["label"]
        z = np.broadcast_to(np.stack([known, fed["is_open"].sum((1, 2))], 1)[:, None], (len(known), 49, 2))
        return (z.astype(np.float32),)


class Head:
    """A patch is its z and the plan's number; guided, the difference to z of no class too."""

    def __init__(self):
        self.calls = []

    def sample(self, plan, seeds, condition, branches=None):
        z = condition["z"]
        self.calls.append((plan.steps, sorted(seeds), z[:, 1]))
        apart = 0 if branches is None else z[:, :1] - branches["uncond"]["z"][:, :1]
        return np.repeat(z[:, :1] + plan.steps + apart, 16, 1) / 1000


def test_the_steps_are_those_of_disa() -> None:
    """`schedule_id` of the authors' code picks one of 5, 6, ..., 50 steps by int((K - 1 - i) / (K - 1) * 45)."""
    assert outer_loop.annealed(4) == [50, 35, 20, 5]
    steps = outer_loop.annealed(64)
    assert (steps[0], steps[1], steps[31], steps[-1]) == (50, 49, 27, 5) and steps == sorted(steps, reverse=True)


@pytest.mark.parametrize("iterations", [1, 4, 12, 49])
def test_each_patch_is_drawn_once_and_later_iterations_draw_more(iterations: int) -> None:
    counts = outer_loop.counts(iterations)
    assert sum(counts) == 49 and min(counts) >= 1 and len(counts) == iterations
    head, plans = Head(), [SimpleNamespace(steps=50 - i, guidance=None) for i in range(iterations)]
    x = outer_loop.generate(head, Backbone(), plans, [3, 4], [7, 2])
    assert x.shape == (2, 49, 16) and (x != 0).all()
    assert sorted(row for _, rows, _ in head.calls for row in rows) == [*range(98, 147), *range(343, 392)]
    assert [steps for steps, _, _ in head.calls] == [50 - i for i in range(iterations)]
    assert [int(unknown[0]) for *_, unknown in head.calls] == [49 - sum(counts[:i]) for i in range(iterations)]


def test_a_picture_does_not_depend_on_its_neighbours_and_guidance_reads_no_class() -> None:
    plans = [SimpleNamespace(steps=5, guidance=weight) for weight in (None, 2.0, 2.0)]
    both = outer_loop.generate(Head(), Backbone(), plans, [3, 4], [7, 2])
    np.testing.assert_array_equal(both[1:], outer_loop.generate(Head(), Backbone(), plans, [4], [2]))
    plain = outer_loop.generate(Head(), Backbone(), [SimpleNamespace(steps=5, guidance=None)] * 3, [3, 4], [7, 2])
    shifts = np.sort(np.unique((both - plain)[0].round(6)))
    assert shifts[-1] == 0 and shifts[0] < 0  # class 3 is nearer to 0 than class 10


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_the_stored_weights_predict_the_noise_of_test_pictures() -> None:
    network, loss = masked_autoregression.training(None, "test")
    with torch.no_grad():
        assert loss(network, torch.Generator().manual_seed(3)) > 0.9
        assert loss(masked_autoregression.trained(), torch.Generator().manual_seed(3)) < 0.14
