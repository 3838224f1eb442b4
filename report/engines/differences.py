"""Differences between engines and onnxruntime, as values. This module imports nothing heavy."""

from fewstep.plans.spec import Strict
from fewstep.runtime.bundle.platforms import QNN


class DifferentLayer(Strict, frozen=True):
    """An operation of the graph, and the tensor that it makes. difference: of the largest value of that tensor. alone:
    the engine agrees when all tensors are returned; the difference came of a fusion around this one."""

    operation: str
    tensor: str
    difference: float
    alone: bool


class EngineComparison(Strict, frozen=True):
    """One graph in one engine.

    difference: the largest from onnxruntime, of the largest output, at any call. limit: the largest that is rounding.
        Of qnn both are standard deviations, of the output's.
    layer: the first that differs, where the whole does. unknown: why there is none.
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
        """An engine that agrees, in words."""
        of = "output's standard deviation" if self.backend == QNN.name else "largest output"
        limit = f"at most {self.limit:g} of the {of}"
        return f"{self.backend} computes {self.graph} as onnxruntime does: {self.difference:.1e} off, {limit}"


class NotCompared(Strict, frozen=True):
    """A backend, or one graph of it, that could not be compared, and why."""

    backend: str
    reason: str

    @property
    def note(self) -> str:
        return f"{self.backend} was not compared: {self.reason}"
