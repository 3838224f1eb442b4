"""What a recorded pipeline passes to its scheduler, as export stores it in the config of a bundle's scheduler."""

from collections.abc import Mapping, Sequence
from itertools import count
from math import isfinite, prod
from typing import Annotated, Any

import msgspec

from fewstep.plans.configs.pipelines import PIPELINE, PIPELINES, RECORDED, UNHELD_START
from fewstep.plans.errors import UserError
from fewstep.plans.shaping import GuidedShaping, shaping_problem
from fewstep.plans.spec import Strict

CORRECT = "export the pipeline again"  # the fix of a field that `fewstep export` did not write
LIMIT = 1e30  # largest magnitude of a number
Draw = Annotated[int, msgspec.Meta(ge=0, lt=2**20)]
FORMER_SHAPINGS = {  # fields of bundles that have no field `shaping`: its tag, and its only field
    "norm_axis": ("match_norm", "axis"),
    "guided_channels": ("guide_channels", "count"),
    "guided_frames": ("guide_frames", "first"),
}


class RecordedStep(Strict, frozen=True, omit_defaults=True):
    """One step of a scheduler, as a weighted sum. `x` and `first` are the weights of x and of the first x. `outputs`
    are the weights of this step's network output, of the previous step's, and so on. `noise` are pairs of a draw's
    number, counted from 0 over all steps, and its weight. `time` is the scheduler's time; `to` is the time at which the
    step ends, for networks that take it."""

    time: float
    x: float
    outputs: tuple[float, ...]
    noise: tuple[tuple[Draw, float], ...] = ()
    first: float = 0.0
    to: float | None = None


class RecordedSteps(Strict, frozen=True):
    """All steps of a run. `start` is the factor of the noise in the network's first input."""

    start: float
    steps: tuple[RecordedStep, ...]

    @property
    def draws(self) -> tuple[int, ...]:
        """The numbers of the draws that the steps read, in increasing order."""
        return tuple(sorted({number for step in self.steps for number, _ in step.noise}))


class ShiftOfSize(Strict, frozen=True):
    """What is added to mu for x of another size: (a + b N) (n - usual_count), where n is the number of its positions,
    such as height * width."""

    usual_count: int
    a: float
    b: float


class Recorded(Strict, frozen=True, omit_defaults=True):
    """What a recorded pipeline passes to its scheduler.

    even: whether it passes sigmas, which are 1 .. 1 / N of N steps unless `sigmas` lists others.
    mu: (a, b) of the argument mu, a + b N; None if it passes none.
    eta: the argument of the scheduler's steps; None if it passes none.
    sigmas: its sigmas for 1 step, for 2 steps and so on; an empty list for a number of steps without.
    shaping: the shaping of the network's guided output, or None.
    steps: recorded steps by their number, which replace the rules of a scheduler that has none.
    guidance: the default guidance weight of its call; None if it has none, or more than one.
    mu_of_size: how mu changes with the size of x; None if it does not.
    """

    even: bool = False
    mu: tuple[float, float] | None = None
    eta: float | None = None
    sigmas: tuple[tuple[float, ...], ...] = ()
    shaping: GuidedShaping | None = None
    steps: dict[int, RecordedSteps] = {}
    guidance: float | None = None
    mu_of_size: ShiftOfSize | None = None

    def arguments(self, steps: int, x_shape: Sequence[int] | None = None) -> dict[str, float]:
        """Return the arguments of the scheduler for a number of steps and x of this shape, by name. None stands for the
        usual shape."""
        if self.mu is None:
            return {}
        mu, size = self.mu[0] + self.mu[1] * steps, self.mu_of_size
        if size is not None and x_shape is not None:
            mu += (size.a + size.b * steps) * (prod(x_shape[1:]) - size.usual_count)
        return {"mu": mu}

    def sigmas_of(self, steps: int) -> tuple[float, ...] | None:
        """Return the sigmas for a number of steps, or None if they follow from rules. Raises UserError for a number for
        which none are listed."""
        if not self.sigmas:
            return None
        if steps > len(self.sigmas) or not self.sigmas[steps - 1]:
            counts = [number for number, sigmas in enumerate(self.sigmas, 1) if sigmas]
            fix = f"give another number, from {counts[0]} to {counts[-1]}"
            raise UserError(f"the recorded pipeline has no sigmas for {steps} steps", fix)
        return self.sigmas[steps - 1]

    def to_config(self) -> dict[str, Any]:
        """Return the fields that are stored in a scheduler's config."""
        fields: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return fields


def read_recorded(fields: Mapping[str, object]) -> Recorded | None:
    """Return what a scheduler's config has recorded of a pipeline, or None. Raises UserError for fields that export
    does not write."""
    if not isinstance(fields.get(PIPELINE), str | None):
        raise UserError(f"scheduler config: {PIPELINE} {fields[PIPELINE]!r:.80} is not a name", CORRECT)
    if not isinstance(fields.get(UNHELD_START), bool | None):
        raise UserError(f"scheduler config: {UNHELD_START} {fields[UNHELD_START]!r:.80} is not true or false", CORRECT)
    if (stored := fields.get(RECORDED)) is None:
        return None
    try:
        recorded = msgspec.convert(_with_shaping(stored), Recorded, str_keys=True)
        problem = _numbers_problem(recorded)
    except (msgspec.ValidationError, OverflowError) as error:
        problem = str(error)
    if problem is not None:
        raise UserError(f"scheduler config: {RECORDED}: {problem}", CORRECT)
    return recorded


def read_steps(fields: Mapping[str, object]) -> dict[int, RecordedSteps] | None:
    """Return the recorded steps of a scheduler's config by their number; None if it has none. Raises UserError as
    `read_recorded` does."""
    recorded = read_recorded(fields)
    return None if recorded is None or not recorded.steps else recorded.steps


def with_guidance(fields: Mapping[str, Any], weight: float | None) -> Mapping[str, Any]:
    """Return the config of a recorded pipeline's scheduler with the default guidance weight of its call."""
    recorded = read_recorded(fields)
    if recorded is None or weight is None:
        return fields
    return {**fields, RECORDED: msgspec.structs.replace(recorded, guidance=weight).to_config()}


def needs_mu(fields: Mapping[str, object], pipeline: str | None) -> bool:
    """Return whether a config has a dynamic shift, and neither the rules of the pipeline nor a recording determine
    it."""
    recorded, rules = read_recorded(fields), PIPELINES.get(pipeline or "")
    if recorded is not None and (recorded.mu is not None or recorded.steps):
        return False
    return bool(fields.get("use_dynamic_shifting")) and (rules is None or rules.patch is None)


def _with_shaping(stored: object) -> object:
    """Return stored fields with a field `shaping`, also those of a bundle from before it was one field."""
    if not isinstance(stored, Mapping):
        return stored
    fields = dict(stored)
    for former, (tag, name) in FORMER_SHAPINGS.items():
        if (value := fields.pop(former, None)) is not None:
            fields["shaping"] = {"type": tag, name: value}
    projection = fields.pop("projection", None)
    return fields if projection is None else {**fields, "shaping": projection}


def _numbers_problem(recorded: Recorded) -> str | None:
    """Return what is wrong with the numbers, as text, or None if nothing is."""
    listed = [number for sigmas in recorded.sigmas for number in sigmas]
    size = recorded.mu_of_size
    of_size = () if size is None else (size.a, size.b)
    numbers = (*(recorded.mu or ()), *of_size, recorded.eta or 0.0, recorded.guidance or 0.0, *listed)
    if not all(map(isfinite, numbers)):
        return "has a number that is not finite"
    if not all(len(sigmas) in (0, number) for number, sigmas in enumerate(recorded.sigmas, 1)):
        return "sigmas are not listed for 1 step, for 2 steps and so on"
    if min(listed, default=0.0) < 0 or (recorded.sigmas and not listed):
        return "sigmas are negative or missing"
    if recorded.shaping is not None and (problem := shaping_problem(recorded.shaping)) is not None:
        return problem
    problems = ((number, _steps_problem(steps)) for number, steps in recorded.steps.items())
    return next((f"steps[{number}] {problem}" for number, problem in problems if problem is not None), None)


def _steps_problem(recorded: RecordedSteps) -> str | None:
    """Return what is wrong with recorded steps, as text, or None if nothing is."""
    if not recorded.steps:
        return "has no steps"
    numbers = [recorded.start]
    for index, step in zip(count(1), recorded.steps):
        numbers += [step.time, step.x, step.first, step.to or 0.0, *step.outputs, *(factor for _, factor in step.noise)]
        if not 1 <= len(step.outputs) <= index:
            return f"has {len(step.outputs)} outputs in step {index}"
    is_fine = all(isfinite(number) and abs(number) < LIMIT for number in numbers)
    return None if is_fine else "has a number that is out of range"
