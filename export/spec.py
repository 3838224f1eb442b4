"""What a denoiser's module does not say about itself, and what export has to know."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from fewstep.graph.graph import GROUP, OUTPUT, TIME, X
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Condition, Prediction, ScheduleSpec
from fewstep.runtime.prediction import check
from fewstep.runtime.schedule import NoiseSchedule

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Spec:
    """A denoiser's interface and meaning.

    Its module is called as `forward(x, time, *conditions)`: x float32 [B, *x_shape], time float32 [B] in the network's
    own units (DDPM timesteps for the discrete schedules), conditions [B, *shape] in the order given here. It returns
    its prediction, shaped as x.
    """

    name: str
    x_shape: tuple[int, ...]
    conditions: tuple[Condition, ...]
    prediction: Prediction
    schedule: ScheduleSpec

    def __post_init__(self) -> None:
        if not self.x_shape or any(size < 1 for size in self.x_shape):
            raise UserError(f"spec {self.name!r} has x_shape {list(self.x_shape)}", "give the shape of one sample")
        inputs = [X, TIME, GROUP, OUTPUT, *(condition.input for condition in self.conditions)]
        for name in inputs:
            if inputs.count(name) > 1:
                raise UserError(f"spec {self.name!r} has two inputs named {name!r}", "rename the condition's input")
        for condition in self.conditions:
            if "int" in condition.dtype and (condition.low is None or condition.high is None):
                raise UserError(
                    f"condition {condition.name!r} of spec {self.name!r} has no bounds", "give low and high"
                )
        try:  # Python checks no types, and a manifest does so only when it is read
            given = msgspec.to_builtins((self.name, self.x_shape, self.conditions, self.prediction, self.schedule))
            msgspec.convert(given, tuple[str, tuple[int, ...], tuple[Condition, ...], Prediction, ScheduleSpec])
        except (msgspec.ValidationError, TypeError) as error:
            raise UserError(f"spec {self.name!r} is not valid: {error}", "see fewstep.export.spec.Spec") from None
        check(self.prediction, NoiseSchedule(self.schedule).at_lam(0.0))


@dataclass(frozen=True)
class Source:
    """A module with its spec, and where both come from: `label` names it without a folder, `sha256` is its content."""

    module: "torch.nn.Module"
    spec: Spec
    label: str
    sha256: str
