"""Checks of a caller's request to a sampler: its settings, seeds, plan, given tensors and hold."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from threading import Event
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.argument_checks import as_integer
from fewstep.plans.continuation.carry_check import fits_stairs, light_problem
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, PERTURBED, UNCOND, Guidance, as_guidance, describe, weight_of
from fewstep.plans.names.plan_reference import FittedReference, NamedReference, SchedulerReference, split_plan_name
from fewstep.plans.plan import DENOISER, IMAGE, LIGHT, NOISE, Plan, row_names
from fewstep.plans.shaping import Shaping
from fewstep.plans.spec import DenoiserFacts, NetworkFacts
from fewstep.plans.strength import AllSteps, Strength
from fewstep.runtime.arrays import (
    Float32,
    as_finite,
    as_finite_tensor,
    as_model_range,
    as_numbers,
    broadcast_to_samples,
)
from fewstep.runtime.bundle import conditions
from fewstep.runtime.bundle.manifest import Body, Manifest
from fewstep.runtime.bundle.networks import interval_ends, network_at
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.bundle.remake_commands import refit_command
from fewstep.runtime.kinds.sizes import apply_sizes, free_x_shape, sizes_of
from fewstep.runtime.sampling.execute import Hold, x_row
from fewstep.runtime.sampling.slots import Slots

Cancel = Event | Callable[[], bool]
GivenTensors = Mapping[str, ArrayLike]
Resolved = NamedReference | FittedReference | SchedulerReference | AnyPlan  # a file has been read
CHOSEN_ONCE = {"sizes": "height=96", "adapters": 'adapters={"FILE.safetensors": 0.8}'}

SAMPLES_LIMIT = 2**20  # per call


class PlanSettings(TypedDict, total=False):
    """The settings that a plan is compiled with, besides its name and guidance. `Sampler.sample` documents each."""

    shaping: Shaping | None
    strength: Strength | None
    renoise: float | None
    branches: conditions.Overrides | None


class RunSettings(PlanSettings, total=False):
    """The keyword arguments of a run. `Sampler.sample` documents each."""

    given: GivenTensors | None
    carried: Slots | None
    hold: Hold | None
    cancel: Cancel | None


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is compiled for: a denoiser, one of its bodies, and the guidance and settings of a run.

    facts: the properties of the denoiser in `bundle`. If the run gives conditions for the branch "uncond", the denoiser
        counts as one that can be guided.
    """

    facts: DenoiserFacts
    bundle: Bundle
    body: Body
    guidance: float | Guidance | None
    settings: PlanSettings


def check_settings(settings: Mapping[str, Any], kind: type, noun: str) -> None:
    """Raise UserError for a setting that the TypedDict `kind` does not have."""
    if settings and (unknown := settings.keys() - kind.__annotations__.keys()):
        refuse_choices(unknown)
        raise UserError(f"a {noun} has no option {min(unknown)!r}", f"it has {', '.join(kind.__annotations__)}")


def refuse_choices(names: Collection[str]) -> None:
    """Raise UserError for an option of a run that is now an option of `Sampler.with_options`."""
    for name, successor in CHOSEN_ONCE.items():
        if name in names:
            fix = f"set it once: sampler = sampler.with_options({successor})"
            raise UserError(f"a run no longer has the option {name!r}", fix)


def denoiser_facts(manifest: Manifest) -> DenoiserFacts:
    """Return the properties of a bundle's denoiser that plan compilation needs."""
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
        and all(PERTURBED in network.inputs for network in manifest.networks.values()),
        carried=manifest.carried,
        distilled=manifest.distilled,
        stairs=None if manifest.positions is None else manifest.positions.stairs(manifest),
        self_condition=manifest.self_condition,
        networks=tuple(
            NetworkFacts(name, until, network.prediction, network.heads, network.steers)
            for name, until in interval_ends(manifest).items()
            for network in (manifest.networks[name],)
        ),
        features=None if manifest.features is None else manifest.features.name,
        without_null=tuple(condition.name for condition in manifest.conditions if not conditions.has_null(condition)),
    )


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Return the seeds as integers. Raises UserError unless there are 1 to SAMPLES_LIMIT, each in 0 .. 2**64 - 1."""
    try:
        found = (
            [None] if isinstance(seeds, conditions.NOT_LISTS) else [*map(as_integer, islice(seeds, SAMPLES_LIMIT + 1))]
        )
    except TypeError:  # no sequence
        found = [None]
    numbers = [number for number in found if number is not None]
    if len(numbers) < len(found):
        raise UserError(f"seeds {seeds!r} are not a list of whole numbers", "give seeds=[0, 1, ...]")
    if not numbers:
        raise UserError("seeds is empty", "give one seed per sample")
    if len(numbers) > SAMPLES_LIMIT:
        raise UserError(f"one call has more than {SAMPLES_LIMIT} seeds", "split them over several calls")
    for number in numbers:
        if not 0 <= number < 2**64:
            raise UserError(f"seed {number} is outside 0 .. 2**64 - 1", "give seeds in that range")
    return numbers


def check_given_mapping(given: GivenTensors | None) -> GivenTensors:
    """Return the given tensors by name. Raises UserError for anything except a mapping."""
    if given is not None and not isinstance(given, Mapping):
        raise UserError(
            f"`given` must map names to arrays, but it is of type {type(given).__name__}", "give {NAME: ARRAY}"
        )
    return given or {}


def check_given(
    names: Sequence[str],
    given: GivenTensors | None,
    condition: conditions.ConditionValues | None,
    shape: Sequence[int],
    samples: int,
) -> dict[str, Float32]:
    """Return the tensors [samples, *x_shape] that a plan starts from. A tensor that is not given is taken from the
    conditions."""
    given = check_given_mapping(given)
    offered = {**conditions.check_condition_mapping(condition), **given}
    for name in given:
        if name not in names:
            takes = f"it takes {', '.join(map(repr, names))}" if names else "it takes none"
            hint = "; give a strength to start from an image" if name == IMAGE else ""
            raise UserError(f"the plan does not take {name!r}", takes + hint)
        as_model_range(given[name], f"given {name!r}", f"give finite numbers {[samples, *shape]}")
    for name in names:
        if name not in offered:
            fix = f"give given={{{name!r}: array {[samples, *shape]}}}"
            raise UserError(f"the plan starts from {name!r}, which is not given", fix)
        if name not in given and (own := _value_shape(name, offered[name])) != tuple(shape):
            fix = f"give given={{{name!r}: array {[samples, *shape]}}}"
            what = f"the plan starts from {name!r}, and the condition of that name has another shape, {list(own)}"
            raise UserError(what, fix)
    return {name: as_finite_tensor(offered[name], f"given {name!r}", (samples, *shape)) for name in names}


def _value_shape(name: str, values: Any) -> tuple[int, ...]:
    """Return the shape of one value of a condition, of which there is one per sample."""
    return as_numbers(values, f"condition {name!r}", "give an array [samples, *shape]").shape[1:]


def check_branches(
    branches: conditions.Overrides | None, plans: Sequence[AnyPlan], guidance: float | Guidance | None
) -> None:
    """Raise UserError for a branch that no plan evaluates. "uncond" may be unused at a guidance weight of 1."""
    used = {COND, *(branch for plan in plans for step in plan.steps for branch in step.branches)}
    if guidance is not None:
        used.add(UNCOND)
    for branch in branches or {}:
        if branch not in used:
            fix = "give a guidance" if branch == UNCOND else f"it has {sorted(used)}"
            raise UserError(f"branches sets {branch!r}, which the plan does not evaluate", fix)


def check_x(x: ArrayLike, manifest: Manifest) -> tuple[Float32, Manifest]:
    """Check states [B, *x_shape] that a caller passes. Return them as float32, and the manifest for their sizes."""
    fix = f"give finite numbers [B, {', '.join(map(str, free_x_shape(manifest)))}]"
    array = as_finite(as_model_range(x, "x", fix), "x", fix)
    return array, manifest_for_shape(array.shape, manifest, fix)


def manifest_for_shape(shape: Sequence[int], manifest: Manifest, fix: str) -> Manifest:
    """Return the manifest with its free sizes set so that states have the shape `shape`, [B, *x_shape]. Raises
    UserError if no sizes give this shape."""
    sizes = sizes_of(shape[1:], manifest)
    if sizes is None or not shape[0]:
        raise UserError(f"x has the shape {list(shape)}", fix)
    return apply_sizes(manifest, sizes)


def check_network_time(time: ArrayLike, samples: int, of: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """Return the times that the network receives, [samples, *of]. `time` is one number for all samples, one for each,
    or the full array. Raises UserError for any other shape."""
    fix = "give one for all samples, or one for each"
    numbers, shape = as_numbers(time, "times", fix), (samples, *of)
    if numbers.dtype == np.bool_:
        raise UserError(f"times {time!r} are truth values", fix)
    times = as_numbers(numbers, "times", fix, np.float64)
    if of and times.ndim < len(shape):
        times = np.broadcast_to(broadcast_to_samples(times, f"time {time!r}", (samples,), fix)[:, None], shape)
    times = broadcast_to_samples(times, f"time {time!r}", shape, fix)
    if not (np.abs(times) <= np.finfo(np.float32).max).all():
        raise UserError(f"times {time!r} are not all finite", "give times of the denoiser's schedule")
    return times


def check_hold(hold: Hold | None, plan: Plan, shape: Sequence[int], samples: int) -> Hold | None:
    """Return the hold with its value and mask converted to float32 and broadcast to all samples, or None if there is
    none. Raises UserError for a hold that does not fit, and for a plan that does not start from noise."""
    if hold is None:
        return None
    if not isinstance(hold, Hold):
        raise UserError(f"hold is {type(hold).__name__}, not Hold", "give fewstep.runtime.Hold(value, mask)")
    if any(name not in (IMAGE, NOISE, *row_names(plan.rows)) for name in plan.given):
        what = f"plan {plan.name!r} starts from {', '.join(plan.given)}, and hold needs a plan that starts from noise"
        raise UserError(what, "leave hold out, or choose such a plan")
    if plan.rolling_bank is not None:
        what = f"plan {plan.name!r} cannot hold part of a sample: its positions have different times"
        raise UserError(what, "leave hold out")
    for step in plan.steps:
        x_row(step)
    wanted = (samples, *shape)
    mask = as_finite_tensor(hold.mask, "the mask of hold", wanted, 0)
    if mask.min() < 0 or mask.max() > 1:
        raise UserError(f"the mask of hold ranges from {mask.min():g} to {mask.max():g}", "give values from 0 to 1")
    if not isinstance(hold.value, tuple):
        value = as_model_range(hold.value, what := "the value to hold", f"give finite numbers {list(wanted)}")
        return replace(hold, value=as_finite_tensor(value, what, wanted, 0), mask=mask)
    if len(hold.value) != len(plan.steps) + 1:
        raise UserError(
            f"hold has {len(hold.value)} values for {len(plan.steps)} steps",
            f"give a tuple of {len(plan.steps) + 1}: one for each step, and one for the sample",
        )
    values = tuple(
        as_finite_tensor(value, f"value {place} to hold", wanted, 0) for place, value in enumerate(hold.value)
    )
    return replace(hold, value=values, mask=mask)


def check_plan(
    plan: Plan, guidance: float | Guidance | None, strength: Strength | None, renoise: float | None, bundle: Bundle
) -> None:
    """Raise UserError for a compiled plan of another schedule, prediction, guidance or network."""
    for problem in (*plan_differences(plan, guidance, bundle), *_plan_problems(plan, strength, renoise, bundle)):
        fix = _export_hint(plan, bundle) or recompile_hint(plan)
        form = plan.guidance if guidance is None else as_guidance(guidance)
        if plan.fitted is not None and strength is renoise is None and (form is None or weight_of(form) is not None):
            fix += f", or {refit_command(bundle.path, bundle.manifest, len(plan.steps), weight_of(form), 'fit one: ')}"
        raise UserError(f"plan {plan.name!r} {problem}", fix)
    if not bundle.manifest.sizes:  # otherwise the check depends on the sizes of the run
        check_tensors(plan, bundle.manifest.x_shape)


def plan_differences(plan: AnyPlan, guidance: float | Guidance | None, bundle: Bundle) -> Iterator[str]:
    """Yield, as text, how a plan of either type differs from a denoiser's schedule and a run's guidance."""
    manifest, schedule = bundle.manifest, bundle.schedule.fingerprint
    if plan.fitted is not None and plan.fitted.source != manifest.provenance.source_sha256:
        yield f"was fitted to another denoiser than the one in {bundle.path}"
    if plan.schedule != schedule:
        has = f"{manifest.schedule.kind}-{manifest.schedule.timesteps} ({schedule})"
        yield f"is for schedule {plan.schedule}, but {manifest.name!r} has {has}"
    if guidance is not None and as_guidance(guidance) != plan.guidance:
        yield f"was compiled with guidance {describe(plan.guidance)}, not {describe(as_guidance(guidance))}"


def _plan_problems(plan: Plan, strength: Strength | None, renoise: float | None, bundle: Bundle) -> Iterator[str]:
    """Yield, as text, other reasons why a plan does not fit a denoiser or a run's settings."""
    manifest = bundle.manifest
    if plan.prediction != manifest.prediction:
        yield f"is for a denoiser that predicts {plan.prediction}, but this one predicts {manifest.prediction}"
    if isinstance(strength, AllSteps):
        yield "was compiled with its own first noise, where all its steps begin"
        strength = None
    for name, wanted, compiled in (("strength", strength, plan.strength), ("renoise", renoise, plan.renoise)):
        if wanted is not None and wanted != compiled:
            yield f"was compiled with {name} {compiled}, not {wanted}"
    if not fits_stairs(plan, None if manifest.positions is None else manifest.positions.stairs(manifest)):
        yield f"does not match the positions that have their own times in {bundle.path}"
    banks, carried = (
        {bank.name for bank in plan.banks if bank.rolls is None},
        {tensor.name for tensor in manifest.carried},
    )
    features = set() if manifest.features is None else {manifest.features.name}
    if banks - features != carried:
        has, wants = (", ".join(sorted(names)) or "none" for names in (banks, carried))
        yield f"carries {has}, but this denoiser carries {wants}"
    if features and (problem := light_problem(plan)):
        yield problem
    if any(bool(step.estimate) != manifest.self_condition for step in plan.steps):
        yield f"{'does not feed' if manifest.self_condition else 'feeds'} its last x0 to the network"
    yield from _step_problems(plan, bundle, carried, features)


def _step_problems(plan: Plan, bundle: Bundle, carried: set[str], features: set[str]) -> Iterator[str]:
    """Yield, as text, how steps differ from the networks that run them. `carried` and `features` name the tensors that
    the denoiser and its light network read."""
    manifest = bundle.manifest
    for index, step in enumerate(plan.steps):
        is_light = step.network == LIGHT and bool(features)
        network = LIGHT if is_light else network_at(manifest, step.lam)
        if step.network != network:
            yield f"runs the network {step.network} at step {index}, but {bundle.path} runs {network} there"
        heads = manifest.heads if network == DENOISER else manifest.networks[network].heads
        label = network if network == DENOISER else f"network {network}"
        if step.heads != heads:
            yield f"reads {step.heads} outputs of the {label} at step {index}, but it has {heads}"
        read = features if is_light else carried
        if missing := read - {plan.banks[read.bank].name for read in step.carry_in}:
            yield f"does not feed {min(missing)!r} to the {label} at step {index}"


def _export_hint(plan: Plan, bundle: Bundle) -> str:
    """Return the fix for a scheduler's plan that reads a learned variance from a bundle whose export left that out, or
    "". Compiling the plan again would not help."""
    reads_more = any(step.heads > bundle.manifest.heads for step in plan.steps if step.network == DENOISER)
    if not (reads_more and split_plan_name(plan.name).is_of_scheduler):
        return ""
    return "export the denoiser again, with its learned variance, or give SOLVER:STEPS, such as ddim:8"


def recompile_hint(plan: AnyPlan) -> str:
    """Return, as text, how to compile a plan for this bundle."""
    from fewstep.plans.names.plan_name import (  # loads all solvers and grids, which running a plan does not need
        is_plan_name,
        with_grid,
    )

    if plan.fitted is not None:
        return f"run {plan.fitted.nominal}: a fitted plan cannot be compiled from its name"
    if plan.tail_of is not None or not is_plan_name(plan.name):
        return "compile the original plan for this bundle, and transform it again"
    return f"give the plan by its name, {with_grid(plan.name)!r}: it is then compiled for this bundle"


def check_tensors(plan: AnyPlan, x_shape: Sequence[int]) -> None:
    """Raise UserError for a plan whose tensors (coefficients per sample element) do not fit samples of this shape."""
    for shape in {tensor.shape for tensor in plan.tensors}:
        if not _is_broadcastable(shape, x_shape):
            raise UserError(
                f"plan {plan.name!r} has a tensor {list(shape)}, which does not fit samples {list(x_shape)}",
                recompile_hint(plan),
            )


def _is_broadcastable(shape: Sequence[int], over: Sequence[int]) -> bool:
    """Return True if an array of shape `shape` can be broadcast to shape `over` by NumPy's rules."""
    sizes = zip(reversed(shape), reversed(over), strict=False)
    return len(shape) <= len(over) and all(size in (1, full) for size, full in sizes)
