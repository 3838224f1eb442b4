"""Checks for runs that diverge: values that are not finite (the error names the step), and samples far outside the
range of the data."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.any_plan import AnyPlan, AnyStep, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import describe
from fewstep.plans.names.plan_reference import split_plan_name
from fewstep.plans.plan import Plan, Step
from fewstep.plans.shaping import describe_shaping
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.sampling.execute import Array, Hold, StepNetwork

LOG = logging.getLogger("fewstep")
_WARNED: set[tuple[str, str]] = set()  # names of denoisers and plans that this process has warned about
SMALL = 4096  # elements
BEYOND = 4.0  # times the largest magnitude in data, from which samples are beyond it: guided ones reach 3.7
PICTURE_LIMIT, NORMAL_LIMIT = 1.0, 5.0  # largest magnitudes in usual data: pictures in [-1, 1], data of variance 1
ANY_DATA = 1000.0  # data of unknown range stay within it in usual units, such as coordinates in angstrom and 0 to 255
OUTPUT = "the denoiser's output"


class State(Protocol):
    """A step's state, of either sample space. Ids are finite: `TokenState` has no rows and no outputs."""

    @property
    def index(self) -> int: ...
    @property
    def step(self) -> Any: ...
    @property
    def before(self) -> Sequence[Array]: ...
    @property
    def outputs(self) -> Sequence[Array]: ...
    @property
    def after(self) -> Sequence[Array]: ...
    def sample(self, plan: Any, hold: Any = None, /) -> NDArray[Any]: ...


Checked = TypeVar("Checked", bound=State)
Samples = TypeVar("Samples", bound=NDArray[Any])


class NotFinite(UserError):
    """An output or a sample of a run contains a value that is not finite."""


def finite_states(states: Iterator[Checked], plan: AnyPlan) -> Iterator[Checked]:
    """Yield the states of a run, each checked first. Raises NotFinite for the first that is not finite."""
    while True:
        with np.errstate(all="ignore"):
            state = next(states, None)
        if state is None:
            return
        check_finite_state(state, plan)
        yield state


def run_to_sample(plan: AnyPlan, states: Iterator[Any], hold: Hold | None = None) -> NDArray[Any]:
    """Run the steps of `states` to their end, and return the sample [B, *x_shape]. Each state is checked.

    Raises NotFinite for the first state that is not finite, and UserError if token positions are still masked.
    """
    last = None
    with np.errstate(all="ignore"):
        for state in states:
            check_finite_state(state, plan)
            last = state
    return finite_sample(plan, [last], hold)


def finite_sample(plan: AnyPlan, states: Iterable[Any], hold: Hold | None = None) -> NDArray[Any]:
    """Return the sample [B, *x_shape] of a run's last state.

    Raises NotFinite for values that are not finite, and UserError if token positions are still masked.
    """
    (last,) = deque(states, maxlen=1)
    with np.errstate(all="ignore"):
        x: NDArray[Any] = last.sample(plan, hold)
        if not is_surely_finite(x):
            check_finite(x, "the sample", len(plan.steps) - 1, plan.steps[-1], plan)
    return x


def check_finite_state(state: State, plan: AnyPlan) -> None:
    """Raise NotFinite if an output or the state after a step is not finite, and name the first that is not.

    Outputs are checked too, because a step may not read all of them: rk4 with CFG++ leaves one unread.
    """
    arrays = list(state.after)
    for column, output in enumerate(state.outputs, len(state.before)):  # none of a step of tokens, which has no update
        for row in state.step.update:
            if row[column]:
                break  # a row that reads the output is finite only if the output is
        else:
            arrays.append(output)
    for array in arrays:  # loops, which take half the time of generators
        if not is_surely_finite(array):
            break
    else:
        return
    for output in state.outputs:
        check_finite(output, OUTPUT, state.index, state.step, plan)
    for row in state.after:
        check_finite(row, "the sample", state.index, state.step, plan)


def finite_outputs(network: StepNetwork, plan: Plan) -> StepNetwork:
    """Wrap a network so that its outputs are checked, for callers that use outputs and not states."""

    def check_network(index: int, step: Step, u: Array) -> Sequence[Array]:
        for output in (outputs := network(index, step, u)):
            check_finite(output, OUTPUT, index, step, plan)
        return outputs

    return check_network


def check_finite(array: NDArray[Any], what: str, index: int, step: AnyStep, plan: AnyPlan) -> None:
    """Raise NotFinite with the step's name if the array contains a value that is not finite."""
    if not np.isfinite(array).all():
        weight = "" if plan.guidance is None else f" with guidance {describe(plan.guidance)}"
        place = f"step {index + 1} of {len(plan.steps)} (time {step.time:g}) of plan {plan.name}{weight}"
        clip = "" if shaping_of(plan) else "clip predictions (--clip LIMIT), "
        fix = f"{clip}check weights and guidance, or compare with precision float32"
        raise NotFinite(f"{what} is not finite at {place}", fix)


def has_pixels(manifest: Manifest) -> bool:
    """Return whether samples are gray or RGB images rather than latents."""
    return manifest.autoencoder is None and len(manifest.x_shape) == 3 and manifest.x_shape[0] in (1, 3)


def data_range(manifest: Manifest) -> float | None:
    """Return the largest magnitude in the data, or None if it is unknown.

    It is the value in the Spec, or the one that `export --check` found. Without either, it is known only for images,
    and for data that are scaled to a variance of 1: latents of an autoencoder, and samples with units.
    """
    if manifest.data_limit is not None:
        return manifest.data_limit
    if has_pixels(manifest):
        return PICTURE_LIMIT
    return NORMAL_LIMIT if manifest.autoencoder is not None or manifest.units is not None else None


def sample_limit(manifest: Manifest) -> float | None:
    """Return the magnitude from which samples are beyond the data; None if the range of the data is unknown."""
    limit = data_range(manifest)
    return None if limit is None else BEYOND * limit


def clip_advice(manifest: Manifest) -> str:
    """Return advice for samples that leave the range of the data: clip x0. The range is usually [-1, 1] for gray and
    RGB images, and never for latents."""
    what, is_known = f"clip each clean prediction, with {clip_option(manifest)}", manifest.data_limit is not None
    if is_known:
        return f"{what}, the largest number in your data"
    whose = "latents of your data" if manifest.autoencoder is not None else "your data"
    is_usual = has_pixels(manifest) and manifest.autoencoder is None
    example = ", such as 1 for images in [-1, 1]" if is_usual else ""
    return f"{what}, the largest number in {whose}, which export --check reads{example}"


def clip_option(manifest: Manifest) -> str:
    """Return the option --clip with the largest magnitude in the data, or with the placeholder LIMIT if that is
    unknown."""
    return f"--clip {_clip_limit(manifest)}"


def _clip_limit(manifest: Manifest) -> str:
    return "LIMIT" if manifest.data_limit is None else f"{manifest.data_limit:g}"


def describe_divergence(x: NDArray[Any], plan: AnyPlan, manifest: Manifest) -> str | None:
    """Return a warning, with its fix, if samples (in model range) are far outside the range of the data; None if they
    are not.

    If the range of the data is unknown, only samples of runs that diverged cause a warning.
    """
    if not x.size or x.dtype.kind != "f":
        return None
    known = data_range(manifest)
    limit, times = (ANY_DATA, 1.0) if known is None else (known, BEYOND)
    largest = float(max(x.max(), -x.min()))
    if largest <= times * limit:
        return None
    data = f"{'usual' if manifest.data_limit is None else 'your'} data, which stay within {limit:g}"
    what = f"samples of {plan.name} reach {largest:.3g}, far beyond {data}"
    parts = split_plan_name(plan.name)
    if parts.is_of_scheduler and manifest.autoencoder is not None and manifest.data_limit is None:
        return (
            f"{what}: try more steps, or another solver, --plan dpmpp_2m:{parts.steps}"  # latents have no usual range
        )
    if parts.is_of_scheduler:  # it takes no clip but that of its config
        named = f"dpmpp_2m:{parts.steps} {clip_option(manifest)}"  # a strength has left out some of its steps
        return f"{what}: try a solver that clips, --plan {named}"
    if (shaping := shaping_of(plan)) is None:
        number = _clip_limit(manifest)
        return f"{what}: {clip_advice(manifest)} (in Python shaping=Clip(-{number}, {number}))"
    return f"{what}, although its predictions are {describe_shaping(shaping)}: use another solver, or check the Spec"


def warn_if_far(x: Samples, plan: AnyPlan, manifest: Manifest) -> Samples:
    """Log `describe_divergence`, once for each plan of a denoiser in this process, and return the samples."""
    key = manifest.name, plan.name
    if key not in _WARNED and (far := describe_divergence(x, plan, manifest)) is not None:
        _WARNED.add(key)
        LOG.warning("%s", far)
    return x


def is_surely_finite(array: NDArray[Any]) -> bool:
    """Return True only if all values are finite.

    It is faster than `np.isfinite`. It also returns False for finite values if their sum or the sum of their squares
    overflows.
    """
    if array.size <= SMALL:  # larger products would start threads of the linear algebra library
        return isfinite(np.vdot(array, array))
    return isfinite(np.add.reduce(array, axis=None))
