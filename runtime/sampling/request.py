"""The check of a caller's request to a sampler: seeds, plans, given tensors, a hold, a cancellation."""

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import Cancelled, UserError
from fewstep.plans.file import decode_any
from fewstep.plans.guidance import COND, PERTURBED, UNCOND, Guidance, as_guidance, describe, weight_of
from fewstep.plans.plan import DENOISER, IMAGE, NOISE, Plan, row_names
from fewstep.plans.shaping import Shaping
from fewstep.plans.spec import DenoiserFacts, NetworkFacts
from fewstep.runtime.arrays import Float32, as_finite, as_model_range, as_numbers, broadcast_to_samples
from fewstep.runtime.bundle import conditions
from fewstep.runtime.bundle.fit_command import refit_command
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.networks import network_at
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import apply_sizes, free_x_shape, sizes_of
from fewstep.runtime.sampling.execute import Hold, x_row
from fewstep.runtime.sampling.feeds import Overrides
from fewstep.runtime.sampling.slots import Slots, check_slots, first_slots

Cancel = Event | Callable[[], bool]
GivenTensors = Mapping[str, ArrayLike]
T = TypeVar("T")
CHOSEN_ONCE = {"sizes": "height=96", "adapters": 'adapters={"FILE.safetensors": 0.8}'}

SCHEDULER = "scheduler:"  # begins the name of a plan by the scheduler that came with the denoiser
SAMPLES_LIMIT = 2**20  # of a call
PLAN_LIMIT = 64 * 2**20  # bytes of a plan file; thousands of steps have a few MB


class PlanSettings(TypedDict, total=False):
    """The settings that a plan is compiled with, name and guidance apart; `Sampler.sample` documents each."""

    shaping: Shaping | None
    strength: float | None
    renoise: float | None
    branches: Overrides | None


class RunSettings(PlanSettings, total=False):
    """Settings of every run; `Sampler.sample` documents each."""

    given: GivenTensors | None
    carried: Slots | None
    hold: Hold | None
    cancel: Cancel | None


class PlannedRun(NamedTuple):
    """A run along a plan: the states of its steps, and the part that it holds."""

    plan: AnyPlan
    states: Iterator[Any]
    hold: Hold | None = None


def check_settings(settings: Mapping[str, Any], kind: type, noun: str) -> None:
    """UserError for a setting that `kind`, a TypedDict, does not have."""
    if settings and (unknown := settings.keys() - kind.__annotations__.keys()):
        refuse_choices(unknown)
        raise UserError(f"a {noun} has no option {min(unknown)!r}", f"it has {', '.join(kind.__annotations__)}")


def refuse_choices(names: Collection[str]) -> None:
    """UserError for what `Sampler.with_options` has taken over from each run."""
    for name, successor in CHOSEN_ONCE.items():
        if name in names:
            raise UserError(f"a run has no option {name!r} any more", f"choose once: sampler = sampler.at({successor})")


def denoiser_facts(manifest: Manifest) -> DenoiserFacts:
    """The facts of a bundle's denoiser that plans are compiled with."""
    guided = conditions.has_unconditional_form(manifest.conditions)
    return DenoiserFacts(
        manifest.schedule,
        manifest.prediction,
        guided,
        manifest.heads,
        manifest.steers,
        manifest.towards,
        grid=manifest.grid or DenoiserFacts.grid,
        perturbed=any(condition.name == PERTURBED for condition in manifest.conditions)
        and all(PERTURBED in each.inputs for each in manifest.networks.values()),
        carried=manifest.carried,
        distilled=manifest.distilled,
        stairs=None if manifest.positions is None else manifest.positions.stairs(manifest),
        networks=tuple(
            NetworkFacts(name, each.until, each.prediction, each.heads, each.steers)
            for name, each in manifest.networks.items()
        ),
    )


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Whole numbers, at least one and no more than a call takes."""
    try:
        numbers = [operator.index(seed) for seed in islice(seeds, SAMPLES_LIMIT + 1)]
    except TypeError as error:
        raise UserError(f"seeds {seeds!r} are not a list of whole numbers", "give seeds=[0, 1, ...]") from error
    if not numbers:
        raise UserError("no seeds, so no samples", "give one seed per sample")
    if len(numbers) > SAMPLES_LIMIT:
        raise UserError(f"more than {SAMPLES_LIMIT} seeds, which are run as one batch", "sample in several calls")
    for number in numbers:
        if not 0 <= number < 2**64:
            raise UserError(f"seed {number} is outside 0 .. 2**64 - 1", "give seeds in that range")
    return numbers


def check_given_mapping(given: GivenTensors | None) -> GivenTensors:
    """The given tensors by name. UserError for anything but a mapping."""
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"given is no mapping of names to arrays but {type(given).__name__}", "give {NAME: ARRAY}")
    return given or {}


def check_given(
    names: Sequence[str],
    given: GivenTensors | None,
    condition: conditions.ConditionValues | None,
    shape: Sequence[int],
    samples: int,
) -> dict[str, Float32]:
    """The tensors [samples, *x_shape] that a plan starts from; one that is not given may be a condition's."""
    given = check_given_mapping(given)
    offered = {**conditions.check_condition_mapping(condition), **given}
    for name in given:
        if name not in names:
            takes = f"it takes {', '.join(map(repr, names))}" if names else "it takes none"
            hint = "; give a strength to start from an image" if name == IMAGE else ""
            raise UserError(f"the plan is given {name!r}", takes + hint)
        as_model_range(given[name], f"given {name!r}", f"give finite numbers {[samples, *shape]}")
    for name in names:
        if name not in offered:
            raise UserError(f"the plan starts from {name!r}", f"give given={{{name!r}: array {[samples, *shape]}}}")
    return {name: _broadcast_tensor(f"given {name!r}", offered[name], (samples, *shape)) for name in names}


def slots_at_start(plan: Plan, carried: Slots | None, manifest: Manifest, samples: int) -> Slots:
    """The slots that a run begins with: left by a run before, or a first run's."""
    tensors = {each.name: each for each in manifest.carried}

    def zeros(name: str, rows: int) -> NDArray[Any]:
        return np.zeros((rows, *tensors[name].shape), tensors[name].dtype)

    first = first_slots(plan, zeros, samples)
    if carried is None:
        return first
    checked = check_slots(carried, plan, first, samples)
    for row in checked.rows(plan) or ():
        if row.shape != (samples, *manifest.x_shape):
            wanted, fix = [samples, *manifest.x_shape], "give what a run left for as many samples"
            raise UserError(f"carried has a state {list(row.shape)}, not {wanted}", fix)
    return checked


def check_branches(branches: Overrides | None, plans: Sequence[AnyPlan], guidance: float | Guidance | None) -> None:
    """Branches whose conditions are given must be a plan's; "uncond" may be idle at a guidance weight of 1."""
    used = {COND, *(branch for plan in plans for step in plan.steps for branch in step.branches)}
    if guidance is not None:
        used.add(UNCOND)
    for branch in branches or {}:
        if branch not in used:
            fix = "give a guidance" if branch == UNCOND else f"it has {sorted(used)}"
            raise UserError(f"branches sets {branch!r}, which the plan does not evaluate", fix)


def check_x(x: ArrayLike, manifest: Manifest) -> tuple[Float32, Manifest]:
    """States [B, *x_shape] that a caller brings, and the manifest at their sizes."""
    fix = f"give finite numbers [B, {', '.join(map(str, free_x_shape(manifest)))}]"
    array = as_finite(x, "x", fix)
    return array, manifest_for_shape(array.shape, manifest, fix)


def manifest_for_shape(shape: Sequence[int], manifest: Manifest, fix: str) -> Manifest:
    """The manifest at the sizes of states of a shape [B, *x_shape]. UserError for another shape."""
    sizes = sizes_of(shape[1:], manifest)
    if sizes is None or not shape[0]:
        raise UserError(f"x has the shape {list(shape)}", fix)
    return apply_sizes(manifest, sizes)


def check_network_time(time: ArrayLike, samples: int, of: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """Network times [samples, *of], given as one for all, as one for each, or whole."""
    fix = "give one for all, or one for each"
    times, shape = as_numbers(time, "times", fix, np.float64), (samples, *of)
    if of and times.ndim < len(shape):
        times = np.broadcast_to(broadcast_to_samples(times, f"time {time!r}", (samples,), fix)[:, None], shape)
    times = broadcast_to_samples(times, f"time {time!r}", shape, fix)
    if not (np.abs(times) <= np.finfo(np.float32).max).all():
        raise UserError(f"times {time!r} are not all finite", "give times of the denoiser's schedule")
    return times


def check_hold(hold: Hold | None, plan: Plan, shape: Sequence[int], samples: int) -> Hold | None:
    """The part to hold as float32, broadcast over the samples."""
    if hold is None:
        return None
    if not isinstance(hold, Hold):
        raise UserError(f"hold is {type(hold).__name__}, no Hold", "give fewstep.runtime.Hold(value, mask)")
    if any(name not in (IMAGE, NOISE, *row_names(plan.rows)) for name in plan.given):
        raise UserError(f"plan {plan.name!r} starts from {', '.join(plan.given)}", "hold is for plans from noise")
    if plan.rolling_bank is not None:
        raise UserError(f"plan {plan.name!r} holds nothing: positions are at times of their own", "leave hold out")
    for step in plan.steps:
        x_row(step)
    wanted = (samples, *shape)
    mask = _broadcast_tensor("the mask of hold", hold.mask, wanted, 0)
    if mask.min() < 0 or mask.max() > 1:
        raise UserError(f"the mask of hold reaches from {mask.min():g} to {mask.max():g}", "give values from 0 to 1")
    if not isinstance(hold.value, tuple):
        value = as_model_range(hold.value, what := "the value to hold", f"give finite numbers {list(wanted)}")
        return replace(hold, value=_broadcast_tensor(what, value, wanted, 0), mask=mask)
    if len(hold.value) != len(plan.steps) + 1:
        raise UserError(
            f"{len(hold.value)} values to hold over {len(plan.steps)} steps",
            f"give a tuple of {len(plan.steps) + 1}: one for each step, and one for the sample",
        )
    values = tuple(
        _broadcast_tensor(f"value {place} to hold", value, wanted, 0) for place, value in enumerate(hold.value)
    )
    return replace(hold, value=values, mask=mask)


def _broadcast_tensor(what: str, value: Any, shape: Sequence[int], axes: int | None = None) -> Float32:
    """A tensor that is broadcast to a shape; without `axes` over the samples alone."""
    fix = f"give finite numbers {list(shape)}"
    return broadcast_to_samples(as_finite(value, what, fix), what, shape, fix, axes)


def read_plan(path: Path) -> AnyPlan:
    """A compiled plan from its file."""
    fix = "give a plan as SOLVER:STEPS, or the path of a plan's JSON"
    try:
        if not path.is_file():
            raise UserError(f"there is no plan file {path}", fix)
        if path.stat().st_size > PLAN_LIMIT:
            raise UserError(f"plan file {path} is larger than {PLAN_LIMIT} bytes", "compile it again")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"plan file {path} cannot be read ({error.strerror})", fix) from error
    return decode_any(content, str(path))


def check_plan(
    plan: Plan, guidance: float | Guidance | None, strength: float | None, renoise: float | None, bundle: Bundle
) -> None:
    """UserError for a compiled plan of another schedule, prediction, guidance or network."""
    for problem in (*plan_differences(plan, guidance, bundle), *_plan_problems(plan, strength, renoise, bundle)):
        fix, form = recompile_hint(plan), plan.guidance if guidance is None else as_guidance(guidance)
        if plan.fitted is not None and strength is renoise is None and (form is None or weight_of(form) is not None):
            fix += f", or {refit_command(bundle.path, bundle.manifest, len(plan.steps), weight_of(form), 'fit one: ')}"
        raise UserError(f"plan {plan.name!r} {problem}", fix)
    if not bundle.manifest.sizes:  # else it depends on the sizes of the run
        check_tensors(plan, bundle.manifest.x_shape)


def plan_differences(plan: AnyPlan, guidance: float | Guidance | None, bundle: Bundle) -> Iterator[str]:
    """The differences of a plan of either kind from the schedule of a denoiser and the guidance of a run, in words."""
    manifest, schedule = bundle.manifest, bundle.schedule.fingerprint
    if plan.fitted is not None and plan.fitted.source != manifest.provenance.source_sha256:
        yield f"was fitted to another denoiser than {bundle.path} holds"
    if plan.schedule != schedule:
        has = f"{manifest.schedule.kind}-{manifest.schedule.timesteps} ({schedule})"
        yield f"is for schedule {plan.schedule}, and {manifest.name!r} has {has}"
    if guidance is not None and as_guidance(guidance) != plan.guidance:
        yield f"was compiled with guidance {describe(plan.guidance)}, not {describe(as_guidance(guidance))}"


def _plan_problems(plan: Plan, strength: float | None, renoise: float | None, bundle: Bundle) -> Iterator[str]:
    """Other faults of a plan for a denoiser or the settings of a run, in words."""
    manifest = bundle.manifest
    if plan.prediction != manifest.prediction:
        yield f"is for a denoiser that predicts {plan.prediction}, this one {manifest.prediction}"
    for name, wanted, compiled in (("strength", strength, plan.strength), ("renoise", renoise, plan.renoise)):
        if wanted is not None and wanted != compiled:
            yield f"was compiled with {name} {compiled}, not {wanted}"
    if not _is_at_positions(plan, manifest):
        yield f"is not for the positions that {bundle.path} has times for"
    banks, carried = {bank.name for bank in plan.banks if bank.rolls is None}, {each.name for each in manifest.carried}
    if banks != carried:
        has, wants = (", ".join(sorted(names)) or "none" for names in (banks, carried))
        yield f"carries {has}, this denoiser {wants}"
    for index, step in enumerate(plan.steps):
        network = network_at(manifest, step.lam)
        if step.network != network:
            yield f"has a step {index} that asks for the network {step.network}, and {bundle.path} runs {network} there"
        heads = manifest.heads if network == DENOISER else manifest.networks[network].heads
        if step.heads != heads:
            yield f"has a step {index} that reads {step.heads} outputs of a {network} that has {heads}"
        if missing := carried - {plan.banks[read.bank].name for read in step.carry_in}:
            yield f"has a step {index} that feeds the {network} no {min(missing)!r}"


def _is_at_positions(plan: Plan, manifest: Manifest) -> bool:
    """True where a plan has times of their own for the positions that the denoiser has, and rolls on as they leave."""
    times = {plan.tensors[step.times].shape for step in plan.steps if step.times is not None}
    stairs = None if manifest.positions is None else manifest.positions.stairs(manifest)
    if stairs is None or stairs.leaves == stairs.places:
        return plan.rolling_bank is None and not times
    rolls = None if plan.rolling_bank is None else plan.rolling_bank.rolls
    if rolls is None or (rolls.axis, rolls.by) != (stairs.axis, stairs.leaves):
        return False
    return times <= {(stairs.places, *[1] * (-stairs.axis - 1))}


def recompile_hint(plan: AnyPlan) -> str:
    """The way to compile a plan for this bundle, in words."""
    from fewstep.plans.names.plan_name import (  # all solvers and grids: not for who only runs plans
        is_plan_name,
        with_grid,
    )

    if plan.fitted is not None:
        return f"no name compiles fitted numbers: run {plan.fitted.nominal}"
    if not is_plan_name(plan.name):
        return "compile its original so for this bundle, and transform that again"
    return f"give the plan by its name, {with_grid(plan.name)!r}: it is then compiled for this bundle"


def check_tensors(plan: AnyPlan, x_shape: Sequence[int]) -> None:
    """UserError for a plan whose tensors, numbers for each element of a sample, do not fit samples of this shape."""
    for shape in {tensor.shape for tensor in plan.tensors}:
        if not _is_broadcastable(shape, x_shape):
            raise UserError(
                f"plan {plan.name!r} holds a tensor {list(shape)} for samples {list(x_shape)}", recompile_hint(plan)
            )


def _is_broadcastable(shape: Sequence[int], over: Sequence[int]) -> bool:
    """True if a tensor of a shape is broadcast over another shape, from the right, and leaves it as it is."""
    sizes = zip(reversed(shape), reversed(over), strict=False)
    return len(shape) <= len(over) and all(size in (1, full) for size, full in sizes)


def stop_on_cancel(states: Iterator[T], evaluations: int, cancel: Cancel | None) -> Iterator[T]:
    """The states of so many evaluations, unless the caller wants no more: that is looked at before each."""
    if cancel is None:
        return states
    wanted = cancel.is_set if isinstance(cancel, Event) else cancel
    if not callable(wanted):
        raise UserError(f"cancel {cancel!r} is no event or function", "give a threading.Event, or a function")
    return _poll_cancel(states, evaluations, wanted)


def _poll_cancel(states: Iterator[T], evaluations: int, wanted: Callable[[], bool]) -> Iterator[T]:
    for _ in range(evaluations):
        if wanted():
            raise Cancelled("the run was cancelled")
        yield next(states)
