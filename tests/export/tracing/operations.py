"""Functions of torch as one module, whose graph is compared with torch's result."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewstep.export.tracing.capture import capture
from fewstep.graph.graph import Array, Graph
from fewstep.graph.half_types import BFLOAT16, FLOAT16
from fewstep.graph.passes.half import to_half
from fewstep.graph.passes.rounding import make_runnable
from fewstep.graph.session import run

Functions = Mapping[str, Callable[[Tensor], Tensor]]


class AllOf(nn.Module):
    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(x) for function in self.functions.values())


def assert_equal_in_16_bits(functions: Functions, x: Tensor, tolerance: float, *halves: np.dtype[Any]) -> None:
    """Compare graphs in 16-bit types, by default both, with torch in float32 on equal numbers, relative to the largest
    value."""
    graph = _capture(functions, x)
    for half in halves or (FLOAT16, BFLOAT16):
        rounded = x.to(torch.float16 if half == FLOAT16 else torch.bfloat16).float()
        _compare(run(make_runnable(to_half(graph, half)), {"x": rounded.numpy()}), functions, rounded, tolerance)


def assert_equal_to_torch(functions: Functions, x: Tensor, tolerance: float) -> Graph:
    """Compare the outputs for a batch that the graph was not captured with, relative to the largest value."""
    graph = _capture(functions, x)
    _compare(run(graph, {"x": x.numpy()}), functions, x, tolerance)
    return graph


_captured: dict[tuple[int, torch.Size, torch.dtype], tuple[Functions, Graph]] = {}  # by functions' id, shape of a row


def _capture(functions: Functions, x: Tensor) -> Graph:
    """Return the graph for a batch of one sample fewer, captured once: only a sample's shape is in it."""
    key = (id(functions), x.shape[1:], x.dtype)
    if key not in _captured:
        graph, _ = capture(AllOf(functions), (x[:-1],), ({0: torch.export.Dim("batch")},), ["x"], list(functions))
        _captured[key] = functions, graph  # with the functions, whose identity no other object then has
    return _captured[key][1]


def _compare(found: Mapping[str, Array], functions: Functions, x: Tensor, tolerance: float) -> None:
    """NaN and infinities must be equal."""
    for name, wanted in zip(functions, AllOf(functions)(x), strict=True):
        expected = wanted.double().numpy()
        assert found[name].shape == expected.shape, name
        is_number = np.isfinite(expected)
        assert np.array_equal(found[name][~is_number], expected[~is_number], equal_nan=True), name
        numbers = expected[is_number]
        error = np.abs(found[name][is_number].astype(np.float64) - numbers).max(initial=0.0)
        assert error <= tolerance * np.abs(numbers).max(initial=0.0), f"{name}: {error}"
