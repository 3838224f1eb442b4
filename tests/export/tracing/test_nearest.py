"""Nearest-neighbour resizing reads what torch reads."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fewstep.export.tracing.capture import capture
from fewstep.export.tracing.nearest import nearest_indices
from fewstep.graph.graph import Graph
from fewstep.graph.session import run

MODES = ("nearest", "nearest-exact")


class Resized(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return interpolate(x, **self.options)


class ToAll(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(interpolate(x, size=to) for to in range(1, 65))


def capture_graph(x: Tensor, **options: Any) -> Graph:
    return capture(Resized(**options), (x[:3],), ({0: torch.export.Dim("batch")},), ["x"], ["y"])[0]


@pytest.mark.parametrize("size", [1, 7, 9, 26, 64])
def test_the_indices_are_those_of_two_axes(size: int) -> None:
    for to in range(1, 65):
        places = torch.arange(float(size * size)).reshape(1, 1, size, size)
        along = places[0, 0, nearest_indices(size, to)][:, nearest_indices(size, to)]
        assert torch.equal(interpolate(places, size=to)[0, 0], along)


@pytest.mark.slow
@pytest.mark.parametrize("size", [9, 26, 64])
def test_the_graph_reads_the_same_pixels_for_each_size_up_to_64(size: int) -> None:
    """One graph has an output for each."""
    x = torch.arange(float(size)).tile(3, 1, 1)
    module, names = ToAll(), [f"to_{to}" for to in range(1, 65)]
    graph, _ = capture(module, (x,), ({0: torch.export.Dim("batch")},), ["x"], names)
    found = run(graph, {"x": x.numpy()})
    for name, wanted in zip(names, module(x), strict=True):
        np.testing.assert_array_equal(found[name], wanted.numpy(), name)


@pytest.mark.parametrize("mode", MODES)
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
def test_the_graph_reads_the_same_pixels(mode: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 2, *shape), np.float32))
    graph = capture_graph(x, mode=mode, **options)
    np.testing.assert_array_equal(run(graph, {"x": x.numpy()})["y"], interpolate(x, mode=mode, **options).numpy())


def test_halves_are_slices_and_doubles_stay_a_resize() -> None:
    x = torch.zeros(4, 2, 8, 8)
    assert set(capture_graph(x, size=(4, 2), mode="nearest").ops()) == {"Slice"}
    assert capture_graph(x, size=(16, 24), mode="nearest").ops().count("Resize") == 1
