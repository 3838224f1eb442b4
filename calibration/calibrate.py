"""`fewstep calibrate`: measure a bundle along the plan it will run, and lower its body to int8 for each target."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Literal, get_args

import msgspec

from fewstep.calibration.lowering.quantize import Lowered, lower, lowered_ops
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets import TARGETS
from fewstep.calibration.observe import Counts, batch_within, observed_tensors, open_watched
from fewstep.calibration.ranges import lambda_edges, tensor_ranges
from fewstep.calibration.table import Method, RangesTable
from fewstep.calibration.trajectories import BATCH, FIRST_SEED, HELD_OUT_SEEDS, roll_out
from fewstep.graph import io
from fewstep.graph.commit import Writer, open_for_update
from fewstep.graph.graph import GROUP, Graph
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Body, Manifest, Tensor
from fewstep.runtime.manifest import Graph as GraphFile
from fewstep.runtime.plan import Plan, encode, regroup
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler, load

Groups = Literal["step", "pooled"]

LOG = logging.getLogger("fewstep")
LEAST_TRAJECTORIES = 4  # fewer do not show the ends of a distribution
GUIDANCE = 2.0
MEMORY = 2**30  # bytes of activations held at once


@dataclass(frozen=True)
class CalibrateOptions:
    """Measure a bundle along the plan it will run, and lower it to int8.

    bundle: The bundle to calibrate; int8 bodies, ranges and the plan are added to it.
    plan: SOLVER:STEPS, or the path of a plan's JSON.
    target: What to lower for: cpu-x86, tensorrt.
    trajectories: How many samples to follow.
    guidance: Weight of classifier-free guidance; by default 2 where the denoiser has an unconditional form.
    ranges: mse minimises the expected squared error of each activation, minmax clips nothing.
    groups: step gives each step of the plan its own ranges, pooled one for all.
    seed: Of the first trajectory; 0 to 255 are held out for evaluation.
    """

    bundle: Path
    plan: str = "dpmpp_2m:8"
    target: tuple[str, ...] = ("cpu-x86", "tensorrt")
    trajectories: int = 64
    guidance: float | None = None
    ranges: Method = "mse"
    groups: Groups = "step"
    seed: int = FIRST_SEED


@dataclass(frozen=True)
class Calibration:
    """What was measured and made. `lowered` is by body name, e.g. "int8-cpu-x86"."""

    manifest: Manifest
    plan: Plan
    table: RangesTable
    lowered: Mapping[str, Lowered]


def calibrate(options: CalibrateOptions, progress: Progress = SILENT) -> Calibration:
    """Roll the float denoiser out, measure ranges, lower for every target, and commit it all at once."""
    _check_choices(options)
    targets = _targets(options.target)
    seeds = _seeds(options)
    with open_for_update(options.bundle, must_exist=True) as writer:
        sampler = load(options.bundle, body="float32")
        path = sampler.bundle.graph(sampler.body.graph)
        prepared = io.load(path, root=options.bundle)
        lowered_ops(prepared)  # says now, not after the trajectories, that there is nothing to lower
        plan = _plan(options, sampler)
        edges = lambda_edges([-inf if step.lam is None else step.lam for step in plan.steps])
        counts = count_activations(prepared, sampler, plan, seeds, edges if options.groups == "step" else (), progress)
        table = tabulate(counts, io.sha256(path), plan.name, options.ranges, progress)
        lowered = {}
        for done, target in enumerate(targets, 1):
            lowered[f"int8-{target.name}"] = lower(prepared, table, target)
            progress("lowering", done, len(targets))
        plan = regroup(plan, table.groups)
        manifest = _commit(writer, sampler.bundle.manifest, options, plan, table, lowered)
    return Calibration(manifest, plan, table, lowered)


def count_activations(
    prepared: Graph,
    sampler: Sampler,
    plan: Plan,
    seeds: Sequence[int],
    edges: tuple[float, ...],
    progress: Progress = SILENT,
) -> Counts:
    """What the activations of the prepared graph hold along `plan`, counted by lambda group."""
    counts = Counts(observed_tensors(prepared), edges)
    watched = replace(sampler, denoiser=open_watched(prepared, counts.tensors))
    branches = max(len(step.branches) for step in plan.steps)
    batch = min(BATCH, batch_within(MEMORY, prepared, counts.tensors, branches))
    for evaluation in roll_out(watched, plan, seeds, progress, batch):
        counts.add(evaluation)
    return counts


def tabulate(counts: Counts, graph_sha256: str, plan: str, method: Method, progress: Progress = SILENT) -> RangesTable:
    """The best ranges of everything that was counted."""
    tensors = {}
    for done, name in enumerate(counts.tensors, 1):
        groups = counts.of(name)
        if len({end for histogram in groups for end in (histogram.low, histogram.high)}) == 1:
            LOG.warning("activation %r is always %g: a layer there may be dead", name, groups[0].low)
        tensors[name] = tensor_ranges(groups, method)
        progress("ranges", done, len(counts.tensors))
    return RangesTable(graph_sha256, plan, counts.edges, method, tensors)


def _targets(names: Sequence[str]) -> tuple[Target, ...]:
    known = {target.name: target for target in TARGETS}
    for name in names:
        if name not in known:
            raise UserError(f"unknown target {name!r}", f"choose from {', '.join(known)}")
    if not names:
        raise UserError("no target to lower for", f"choose from {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))


def _check_choices(options: CalibrateOptions) -> None:
    """What the command line checks, for callers of the function."""
    for option, value, choices in (
        ("ranges", options.ranges, get_args(Method)),
        ("groups", options.groups, get_args(Groups)),
    ):
        if value not in choices:
            raise UserError(f"{option} cannot be {value!r}", f"choose from {', '.join(choices)}")


def _seeds(options: CalibrateOptions) -> range:
    if options.trajectories < LEAST_TRAJECTORIES:
        raise UserError(
            f"{options.trajectories} trajectories show too little of the activations",
            f"follow at least {LEAST_TRAJECTORIES}, better 64",
        )
    if not len(HELD_OUT_SEEDS) <= options.seed <= 2**64 - options.trajectories:
        raise UserError(
            f"calibration seeds from {options.seed} meet those held out for evaluation, or leave 64 bits",
            f"start from {FIRST_SEED}",
        )
    return range(options.seed, options.seed + options.trajectories)


def _plan(options: CalibrateOptions, sampler: Sampler) -> Plan:
    """The plan, one lambda group for now. A plan's file brings its own guidance."""
    conditions = sampler.bundle.manifest.conditions
    guided = bool(conditions) and all(condition.null is not None for condition in conditions)
    default = GUIDANCE if guided and not options.plan.endswith(".json") else None
    return sampler.compile(options.plan, default if options.guidance is None else options.guidance)


def _commit(
    writer: Writer,
    manifest: Manifest,
    options: CalibrateOptions,
    plan: Plan,
    table: RangesTable,
    lowered: Mapping[str, Lowered],
) -> Manifest:
    """Add everything to the bundle. What was made from bodies that change (engines, the report) goes, and is named."""
    bodies = {name: _body(writer, name, body, manifest, plan) for name, body in lowered.items()}
    plan_file = writer.add(encode(plan), "plans", re.sub(r"[^\w.-]+", "-", plan.name), ".json")
    commands = dict.fromkeys((*manifest.provenance.commands, _command(options, plan)))
    provenance = msgspec.structs.replace(manifest.provenance, commands=tuple(commands))
    changed = {name for name, body in bodies.items() if manifest.bodies.get(name) != body}
    engines = tuple(engine for engine in manifest.engines if engine.body not in changed)
    judged = manifest.report is not None and bool(changed)
    if len(engines) < len(manifest.engines) or judged:
        gone = [engine.file for engine in manifest.engines if engine not in engines] + ["the report"] * judged
        LOG.warning("made from the former bodies, and removed: %s", ", ".join(gone))
    return writer.commit(
        msgspec.structs.replace(
            manifest,
            bodies={**manifest.bodies, **bodies},
            plans={**manifest.plans, plan.name: plan_file},
            ranges=writer.add(table.encode(), "ranges", "ranges", ".safetensors"),
            engines=engines,
            provenance=provenance,
            report=None if judged else manifest.report,
            results=None if judged else manifest.results,
        )
    )


def _body(writer: Writer, name: str, lowered: Lowered, manifest: Manifest, plan: Plan) -> Body:
    """Store a lowered graph. Its inputs are those of the float body, and "group" where its scales differ by group."""
    file, data = io.store(writer, lowered.graph, name)
    base = manifest.bodies["float32"].graph
    group = (Tensor(GROUP, "group", (1,), "int64"),) if lowered.groups else ()
    return Body(
        graph=GraphFile(file, base.inputs + group, base.outputs, data),
        precision="int8",
        target=name.removeprefix("int8-"),
        groups=lowered.groups,
        plan=plan.name,
        coverage=lowered.coverage,
    )


def _command(options: CalibrateOptions, plan: Plan) -> str:
    """The command that does this again, without anybody's paths."""
    guidance = "" if plan.guidance is None else f" --guidance {plan.guidance:g}"
    target = ",".join(options.target)
    measured = f"--ranges {options.ranges} --groups {options.groups} --seed {options.seed}"
    return (
        f"fewstep calibrate BUNDLE --plan {plan.name}{guidance} --target {target}"
        f" --trajectories {options.trajectories} {measured}"
    )
