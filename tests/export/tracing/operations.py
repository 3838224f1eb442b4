"""Functions of torch as one module, whose graph is compared with torch."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fewstep.export.capture import capture
from fewstep.graph.graph import Graph
from fewstep.graph.session import run

Functions = Mapping[str, Callable[[Tensor], Tensor]]


class AllOf(nn.Module):
    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(x) for function in self.functions.values())


def assert_equal_to_torch(functions: Functions, x: Tensor, tolerance: float) -> Graph:
    """Compare the outputs for a batch that the graph was not captured with, relative to the largest value."""
    module = AllOf(functions)
    graph, _ = capture(module, (x[:-1],), ({0: torch.export.Dim("batch")},), ["x"], list(functions))
    found = run(graph, {"x": x.numpy()})
    for name, wanted in zip(functions, module(x), strict=True):
        assert found[name].shape == tuple(wanted.shape), name
        error = np.abs(found[name].astype(np.float64) - wanted.double().numpy()).max()
        assert error <= tolerance * float(wanted.abs().max()), f"{name}: {error}"
    return graph
