"""Structs for differences between engines and onnxruntime. This module imports no large library."""

from fewstep.plans.spec import Strict
from fewstep.runtime.bundle.platforms import QNN


class DifferentLayer(Strict, frozen=True):
    """An operation of the graph, and its output tensor.

    difference: relative to the largest value of that tensor. alone: whether the engine agrees if all tensors are
        outputs. If so, a fusion around this operation causes the difference.
    """

    operation: str
    tensor: str
    difference: float
    alone: bool


class EngineComparison(Strict, frozen=True):
    """The comparison of one graph in one engine with onnxruntime.

    difference: the largest of all calls, relative to the largest output. limit: the largest difference that rounding
        explains. For qnn both are standard deviations, relative to the output's.
    layer: the first layer that differs, if the outputs do. unknown: the reason why it was not found.
    """

    backend: str
    graph: str
    calls: int
    difference: float
    limit: float
    layer: DifferentLayer | None = None
    unknown: str = ""

    @property
    def agrees(self) -> bool:
        return self.difference <= self.limit

    @property
    def agreement(self) -> str:
        """A sentence about how closely the engine agrees with onnxruntime."""
        unit = "output's standard deviation" if self.backend == QNN.name else "largest output"
        limit = f"limit {self.limit:g} of the {unit}"
        return f"{self.graph} on {self.backend} agrees with onnxruntime: difference {self.difference:.1e}, {limit}"


class NotCompared(Strict, frozen=True):
    """A backend, or one graph on it, that could not be compared, with the reason."""

    backend: str
    reason: str

    @property
    def note(self) -> str:
        return f"{self.backend} was not compared: {self.reason}"
