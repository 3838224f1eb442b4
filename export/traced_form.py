"""Modules that are traced in another form than they run in, such as one whose backward pass is a part of it."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from fewstep.export.spec import Spec
from fewstep.plans.errors import UserError


class TracedForm(nn.Module, ABC):
    """A module whose operations no exporter writes as they are."""

    @abstractmethod
    def check_spec(self, spec: Spec) -> None:
        """UserError for a spec that the other form is not made for."""

    @abstractmethod
    def make_traceable(self, example: tuple[Tensor, ...]) -> nn.Module:
        """The module in the form that is traced, of any batch; `example` are valid inputs."""

    @abstractmethod
    def explain_refusal(self, example: tuple[Tensor, ...], operation: str) -> UserError:
        """The error for an operation without an ONNX form, as "grid_sampler_2d"."""
