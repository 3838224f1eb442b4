"""A run along a compiled plan: its inputs, the states of its steps, and the sample that they end in."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeVar

from numpy.typing import NDArray

from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import Cancelled, UserError
from fewstep.runtime.arrays import Float32
from fewstep.runtime.bundle.conditions import ConditionValues
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.sampling.execute import Draws, Hold
from fewstep.runtime.sampling.feeds import BranchValues
from fewstep.runtime.sampling.finite_checks import finite_sample, finite_states, run_to_sample, warn_if_far
from fewstep.runtime.sampling.request import Cancel, RunSettings, check_given
from fewstep.runtime.sampling.step_call import StepCall

T = TypeVar("T")


@dataclass(frozen=True)
class RunInputs:
    """The inputs of a run along one compiled plan. Seeds, sizes and conditions are already checked.

    values_of: a function from a branch to its conditions.
    step_call: a function that returns the network calls of a plan's steps.
    reads_time: whether the network takes a time.
    """

    manifest: Manifest
    seeds: Sequence[int]
    condition: ConditionValues | None
    values_of: BranchValues
    settings: RunSettings
    draws: Draws
    step_call: Callable[[AnyPlan], StepCall]
    reads_time: bool

    def given_tensors(self, plan: AnyPlan) -> dict[str, Float32]:
        """Return the tensors [B, *x_shape] that the plan starts from, checked."""
        given = self.settings.get("given")
        return check_given(plan.given, given, self.condition, self.manifest.x_shape, len(self.seeds))

    def run(self, plan: AnyPlan, states: Iterator[Any], hold: Hold | None = None) -> "PlannedRun":
        """Return the run that yields these states. It raises `Cancelled` once the setting `cancel` is set."""
        states = stop_on_cancel(states, len(plan.steps), self.settings.get("cancel"))
        return PlannedRun(plan, self.manifest, states, hold)


@dataclass(frozen=True)
class PlannedRun:
    """A run along a plan: the states of its steps, computed lazily and not checked, and its held part."""

    plan: AnyPlan
    manifest: Manifest
    states: Iterator[Any]
    hold: Hold | None = None

    def check_states(self) -> Iterator[Any]:
        """Yield the state after each step. Raises NotFinite for the first that is not finite."""
        return finite_states(self.states, self.plan)

    def finish(self) -> NDArray[Any]:
        """Run all steps, and return the sample [B, *x_shape]. Raises NotFinite if a value is not finite."""
        return warn_if_far(run_to_sample(self.plan, self.states, self.hold), self.plan, self.manifest)

    def sample_of(self, last: Any) -> NDArray[Any]:
        """Return the sample [B, *x_shape] of the last state. Raises NotFinite if a value is not finite."""
        return warn_if_far(finite_sample(self.plan, [last], self.hold), self.plan, self.manifest)


def stop_on_cancel(states: Iterator[T], evaluations: int, cancel: Cancel | None) -> Iterator[T]:
    """Return the states of `evaluations` evaluations. Raises Cancelled once `cancel` is set, checked before each."""
    if cancel is None:
        return states
    wanted = cancel.is_set if isinstance(cancel, Event) else cancel
    if not callable(wanted):
        raise UserError(f"cancel {cancel!r} is not an event or function", "give a threading.Event, or a function")
    return _poll_cancel(states, evaluations, wanted)


def _poll_cancel(states: Iterator[T], evaluations: int, wanted: Callable[[], bool]) -> Iterator[T]:
    for _ in range(evaluations):
        if wanted():
            raise Cancelled("the run was cancelled")
        yield next(states)
