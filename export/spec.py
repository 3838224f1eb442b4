"""What a denoiser's module does not say about itself, and what export has to know."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from fewstep.graph.graph import GROUP, OUTPUT, TIME, X
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Condition, DType, Prediction, ScheduleSpec
from fewstep.runtime.prediction import check
from fewstep.runtime.schedule import NoiseSchedule, time_grid

if TYPE_CHECKING:
    import torch

FIELDS: dict[str, tuple[Any, str]] = {  # of a Spec: type, and what to give
    "name": (str, "give a string"),
    "x_shape": (tuple[int, ...], "give the shape of one sample, as (1, 28, 28)"),
    "conditions": (tuple[Condition, ...], f"give a tuple of Condition, with dtypes of {', '.join(get_args(DType))}"),
    "prediction": (Prediction, f"give one of {', '.join(get_args(Prediction))}"),
    "schedule": (ScheduleSpec, "give a ScheduleSpec of kind linear, cosine or flow"),
}


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
        for field, (kind, fix) in FIELDS.items():  # Python checks no types, and a manifest does so only when it is read
            given = getattr(self, field)
            try:  # a list becomes the tuple that it stands for
                object.__setattr__(self, field, msgspec.convert(msgspec.to_builtins(given), kind))
            except (msgspec.ValidationError, TypeError) as error:
                reason = str(error).replace("$", field)
                raise UserError(f"field {field!r} of spec {self.name!r} is wrong: {reason}", fix) from None
        for name in (self.name, *(name for condition in self.conditions for name in (condition.name, condition.input))):
            if not name.strip() or not name.isprintable():
                raise UserError(f"spec {self.name!r} has a name {name!r}", "give one line of visible characters")
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
        schedule = NoiseSchedule(self.schedule)
        check(self.prediction, schedule.at_lam(0.0))
        if self.prediction == "epsilon" and time_grid(schedule, 1)[0].alpha == 0:
            raise UserError(
                f"spec {self.name!r}: an epsilon prediction on schedule {self.schedule.kind}, where alpha starts at 0 "
                "and the noise says nothing of x0",
                "use a denoiser that predicts flow or sample",
            )


@dataclass(frozen=True)
class Source:
    """A module with its spec, and where both come from: `label` names it without a folder, `sha256` is its content."""

    module: "torch.nn.Module"
    spec: Spec
    label: str
    sha256: str
