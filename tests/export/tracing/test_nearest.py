"""Nearest-neighbour resizing reads the same pixels as torch."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fewstep.export.tracing.capture import capture
from fewstep.export.tracing.nearest import nearest_indices
from fewstep.graph.session import run
from tests.export.tracing.operations import Functions, assert_equal_to_torch

pytestmark = pytest.mark.slow

MODES = ("nearest", "nearest-exact")


def resize_by_modes(**options: Any) -> Functions:
    """Return a function that resizes in each mode."""
    return {mode.replace("-", "_"): partial(interpolate, mode=mode, **options) for mode in MODES}


class ToAll(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(interpolate(x, size=to) for to in range(1, 65))


@pytest.mark.parametrize("size", [1, 7, 9, 26, 64])
def test_the_indices_are_those_of_two_axes(size: int) -> None:
    for to in range(1, 65):
        places = torch.arange(float(size * size)).reshape(1, 1, size, size)
        along = places[0, 0, nearest_indices(size, to)][:, nearest_indices(size, to)]
        assert torch.equal(interpolate(places, size=to)[0, 0], along)


@pytest.mark.slow
@pytest.mark.parametrize("size", [9, 26, 64])
def test_the_graph_reads_the_same_pixels_for_each_size_up_to_64(size: int) -> None:
    """One graph has an output for each size."""
    x = torch.arange(float(size)).tile(3, 1, 1)
    module, names = ToAll(), [f"to_{to}" for to in range(1, 65)]
    graph, _ = capture(module, (x,), ({0: torch.export.Dim("batch")},), ["x"], names)
    found = run(graph, {"x": x.numpy()})
    for name, wanted in zip(names, module(x), strict=True):
        np.testing.assert_array_equal(found[name], wanted.numpy(), name)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((26, 26), {"size": (64, 64)}),
        ((64, 64), {"size": (26, 32)}),
        ((26,), {"scale_factor": 0.7}),
        ((5, 6, 7), {"scale_factor": (1.3, 0.5, 2.0)}),
        ((9, 16), {"size": (18, 48)}),
    ],
    ids=str,
)
def test_the_graph_reads_the_same_pixels(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 2, *shape), np.float32))
    assert_equal_to_torch(resize_by_modes(**options), x, 0.0)


def test_halves_are_slices_and_doubles_stay_a_resize() -> None:
    x = torch.zeros(4, 2, 8, 8)
    halves: Functions = {"y": partial(interpolate, size=(4, 2), mode="nearest")}
    doubles: Functions = {"y": partial(interpolate, size=(16, 24), mode="nearest")}
    assert set(assert_equal_to_torch(halves, x, 0.0).ops()) == {"Slice"}
    assert assert_equal_to_torch(doubles, x, 0.0).ops().count("Resize") == 1
