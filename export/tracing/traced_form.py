"""Modules that are replaced by an equivalent module for tracing. An example is a module that contains its backward
pass."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from fewstep.export.spec import Spec
from fewstep.plans.errors import UserError


class TracedForm(nn.Module, ABC):
    """A module with operations that the exporter cannot write directly."""

    @abstractmethod
    def check_spec(self, spec: Spec) -> None:
        """Raise UserError for a spec that the traced module does not support."""

    @abstractmethod
    def make_traceable(self, example: tuple[Tensor, ...]) -> nn.Module:
        """Return the equivalent module that is traced, for any batch. `example` are valid inputs."""

    @abstractmethod
    def explain_refusal(self, example: tuple[Tensor, ...], operation: str) -> UserError:
        """Return the error for an operation that ONNX cannot express, such as "grid_sampler_2d"."""
