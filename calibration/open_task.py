"""Open the task of a calibration from its options, and check everything that needs no sampling."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from pathlib import Path

from msgspec import structs

from fewstep.calibration.failed_bodies import TargetResults, try_targets
from fewstep.calibration.lowering.quantize import select_ops_to_lower
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.options import GUIDANCE, CalibrateOptions, load_targets, trajectory_seeds, warn_of_few
from fewstep.calibration.precision.bound import Bound, parse_bound
from fewstep.calibration.precision.kept_operations import check_patterns, match_operations
from fewstep.calibration.ranges.methods import lambda_edges
from fewstep.calibration.task import Task
from fewstep.graph.graph import Graph
from fewstep.graph.stored_graphs import load_stored
from fewstep.measure.rollouts.conditions_file import ConditionRecords, GivenConditions, distribute_records
from fewstep.measure.rollouts.on_demand import LazyOnnxRuntime
from fewstep.measure.rollouts.recorded_token_run import check_counts
from fewstep.measure.rollouts.row_by_row import with_row_by_row_prologue
from fewstep.measure.rollouts.seeds import draw_conditions
from fewstep.measure.rollouts.trajectories import max_seeds_per_size, trajectories_text
from fewstep.plans.any_plan import AnyPlan, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import to_text
from fewstep.plans.names.plan_reference import (
    FileReference,
    NamedReference,
    SchedulerReference,
    parse_plan_text,
    split_plan_name,
)
from fewstep.plans.plan import DENOISER, LIGHT
from fewstep.plans.shaping import Clip, clip_to
from fewstep.runtime.bundle.conditions import default_value, is_led_by_guidance
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import apply_sizes, default_sizes
from fewstep.runtime.sampling.lazy_graphs import LazyGraph
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler

LOG = logging.getLogger("fewstep")


def open_tasks(options: CalibrateOptions) -> dict[str, Task]:
    """Open the task of each network, by name. Raises UserError as `open_task` does, and for a pattern of the options
    that matches no operation."""
    tasks = {name: open_task(options, name) for name in networks(options.open().manifest)}
    check_patterns([task.prepared for task in tasks.values()], options.keep_float)
    return tasks


def open_task(options: CalibrateOptions, network: str = DENOISER) -> Task:
    """Open the task of the options for one network. Raises UserError if it cannot be done.

    A target whose engine computes the float32 body wrong is recorded as refused. If no target is left, its error is
    raised.
    """
    all_networks = load(options.bundle, body="float32", backend=LazyOnnxRuntime(threads=options.threads))
    plan, sampler, bound = (
        _compile_plan(options, all_networks),
        all_networks.select_network(network),
        _parse_bound(options, all_networks),
    )
    lams = [-inf if step.lam is None else step.lam for step in plan.steps if step.network == network]
    if not lams:
        fix = "give light steps (--plan SOLVER:STEPS+every)" if network == LIGHT else "give a longer plan (--plan)"
        raise UserError(f"plan {plan.name} has no step of the network {network}", fix)
    if isinstance(graph := sampler.network().graph, LazyGraph):
        sampler = sampler.with_network_parts(bundle=graph.bundle)  # a `HashOnceBundle`, which hashes each file once
    prepared = load_stored(sampler.bundle, sampler.body.graph)
    conditions, sizes = _load_conditions(options, all_networks), _parse_sizes(options, all_networks)
    usable = _check_targets(load_targets(options), sampler.bundle, prepared, conditions.records)
    targets = tuple(usable.made.values())
    edges, seeds = lambda_edges(lams), trajectory_seeds(options)
    task = Task(
        sampler=with_row_by_row_prologue(sampler),
        prepared=prepared,
        plan=plan,
        targets=targets,
        seeds=seeds,
        edges=() if options.groups == "pooled" else edges,
        operations=tuple(
            op.name for op in select_ops_to_lower(prepared, all(each.scheme.no_floats for each in targets))
        ),
        conditions=conditions.records,
        random=conditions.random,
        sizes=sizes,
        per_size=max_seeds_per_size(seeds, len(sizes)),
        threads=options.threads,
        bound=bound,
        command=lambda names: _command(options, plan, names),
        refused=usable.failed,
        network=network,
        all_networks=all_networks if len(all_networks.denoiser.networks) > 1 else None,
        no_floats=any(target.scheme.no_floats for target in targets),
        kept_operations=match_operations(prepared, options.keep_float),
    )
    warn_of_few(options)
    return task


def _check_targets(
    targets: Sequence[Target], bundle: Bundle, prepared: Graph, records: ConditionRecords | None
) -> TargetResults[Target]:
    """Return the targets that have operations to lower and an engine that computes the float32 body correctly, and the
    errors of the others. Raises UserError if no target is left."""

    def check_target(target: Target) -> Target:
        select_ops_to_lower(prepared, target.scheme.no_floats)
        if target.scheme.no_floats:
            _refuse_constant_conditions(bundle.manifest.conditions, records, target)
        if target.tries is not None:
            target.tries(bundle)
        return target

    return try_targets(targets, check_target, {})


def _refuse_constant_conditions(
    conditions: Sequence[Condition], records: ConditionRecords | None, target: Target
) -> None:
    """Raise UserError if a condition has its default on every trajectory. A target without floats would get ranges for
    that value only, such as a range of zeros."""
    for each in conditions:
        is_fixed = each.low is not None and each.low == each.high
        if each.default is None or each.typical is not None or is_fixed:
            continue
        if records is None or (records[each.name] == default_value(each)).all():
            raise UserError(
                f"condition {each.name!r} has its default on every trajectory, and {target.name} clips other values",
                "give the values that it will have (--conditions FILE), or leave this target out",
            )


def _load_conditions(options: CalibrateOptions, sampler: Sampler) -> GivenConditions:
    """Return one record of conditions for each trajectory, from a file or from prompts. Raises UserError if there is
    neither and a condition cannot be drawn."""
    given = options.calibration_conditions(sampler.bundle)
    if given.records is not None:
        return replace(given, records=distribute_records(given.records, options.trajectories))
    draw_conditions(sampler.bundle.manifest, [options.seed])
    return given


def _parse_sizes(options: CalibrateOptions, sampler: Sampler) -> tuple[dict[str, int], ...]:
    """Return the sizes that the options name, each with a value for every dynamic axis."""
    manifest, chosen = sampler.bundle.manifest, []
    names = [size.name for size in manifest.sizes]
    for text in options.size:
        numbers = text.split("x")
        if len(numbers) != len(names) or not all(each.isascii() and each.isdecimal() for each in numbers):
            form = "x".join(name.upper() for name in names)
            fix = f"write {form} for each" if names else "leave it out: x has one shape"
            raise UserError(f"--size {text!r} is not a size of x", fix)
        chosen.append({name: int(number) for name, number in zip(names, numbers, strict=True)})
        apply_sizes(manifest, chosen[-1])
    usual = default_sizes(manifest.x_shape, manifest.sizes)
    if manifest.space.fixes_shape and any(sizes != usual for sizes in chosen):
        what = f"--size {','.join(options.size)}: a plan of tokens is for one size"
        raise UserError(what, "leave it out, and calibrate at the default size")
    has_own = options.conditions is not None or options.prompts is not None
    if has_own and any(each.follows for each in manifest.conditions) and any(sizes != usual for sizes in chosen):
        raise UserError(
            "--size cannot resize your own conditions, some of which follow the size of x", "leave one of them out"
        )
    if options.trajectories < len(chosen):
        raise UserError(
            f"{trajectories_text(options.trajectories)} cannot cover all sizes of --size {','.join(options.size)}",
            f"follow at least {len(chosen)} (--trajectories {len(chosen)}), or name fewer sizes",
        )
    return tuple(chosen)


def _compile_plan(options: CalibrateOptions, sampler: Sampler) -> AnyPlan:
    """Compile the plan with one range group, which `calibrate` splits later. The guidance of a plan file is that of its
    plan. Clips of earlier calibrations are not used."""
    manifest = sampler.bundle.manifest
    sampler = sampler.with_network_parts(bundle=replace(sampler.bundle, manifest=structs.replace(manifest, plans={})))
    reference = options.plan or parse_plan_text(manifest.space.default_plan)
    is_file = isinstance(reference, FileReference)
    default = GUIDANCE if is_led_by_guidance(manifest.conditions) and not is_file else None
    weight = default if options.guidance is None else options.guidance
    plan: AnyPlan = sampler.compile(reference, weight, shaping=clip_to(options.clip))
    check_counts(plan, "calibrate along a plan of counts, such as maskgit:8 or likeliest:8")
    may_clip = manifest.space.has_squared_error and shaping_of(plan) is None
    clip = _scheduler_clip(sampler) if may_clip else None
    if clip is not None:
        LOG.warning(
            "the model's own scheduler clips predictions to [%g, %g], but this plan does not: if your program clips, "
            "give --clip %g, so that the ranges fit",
            *(clip.low, clip.high, clip.high),
        )
    return plan


def _parse_bound(options: CalibrateOptions, sampler: Sampler) -> Bound | None:
    """Parse the bound. Raises UserError for token denoisers and for several networks: a bound is for one network."""
    bound, count = parse_bound(options.quality, options.speed), len(sampler.denoiser.networks)
    if bound is not None and (count > 1 or not sampler.bundle.manifest.space.has_squared_error):
        what = f"a bundle of {count} networks" if count > 1 else "a token denoiser"
        raise UserError(f"{what} cannot have a precision map", "leave --quality and --speed out")
    return bound


def _scheduler_clip(sampler: Sampler) -> Clip | None:
    """Return the clip of the scheduler that came with the denoiser, or None."""
    if sampler.bundle.manifest.scheduler is None:
        return None
    with suppress(UserError):
        shaping = shaping_of(sampler.compile(SchedulerReference(2)))  # the clip does not depend on the number of steps
        return shaping if isinstance(shaping, Clip) else None
    return None


def _command(options: CalibrateOptions, plan: AnyPlan, targets: Sequence[str]) -> str:
    """Return the command that repeats this calibration for some of the targets. File paths are replaced by FILE.
    `calibration_settings.py` parses it."""
    again = replace(
        options,
        plan=NamedReference(split_plan_name(plan.name)),  # the name of a transformed plan only describes it
        guidance=plan.guidance if to_text(plan.guidance) else None,
        target=tuple(targets),
        conditions=options.conditions and Path("FILE"),
        prompts=options.prompts and Path("FILE"),
    )
    return again.command_line("calibrate", always=("plan", "target", "trajectories", "groups", "seed"))
