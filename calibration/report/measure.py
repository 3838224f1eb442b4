"""A bundle's figures: which bodies are compared, how each is run, and everything the page needs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import perf_counter

from fewstep.calibration import results, table
from fewstep.calibration.evaluate import Candidate, Denoiser, Setting, evaluate
from fewstep.calibration.held_out import held_out_conditions, label
from fewstep.calibration.lowering.selection import selected_ops
from fewstep.calibration.lowering.targets import TARGETS
from fewstep.calibration.machine import Machine, this_machine
from fewstep.calibration.report.operations import operations
from fewstep.calibration.report.options import ReportOptions
from fewstep.calibration.report.samples import Samples
from fewstep.calibration.results import Covered, Quality, RangeOverGroups, Results
from fewstep.calibration.speed import Contender, Race, race
from fewstep.calibration.trajectories import roll_out
from fewstep.graph import io
from fewstep.graph.graph import Graph
from fewstep.runtime.backends import Arrays
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle import Bundle, open_bundle
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Body
from fewstep.runtime.plan import Plan, decode
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler, load

BATCH = 16  # samples at once: large enough to use the cores, small enough for the caches
RANGES_SHOWN = 6
NATIVE = ("cpu-x86",)  # targets whose bodies onnxruntime runs as they are deployed
ENGINE = "onnxruntime"
SIMULATION = "onnxruntime: 8-bit rounding simulated, the rest float32"  # of any other engine's body
EXACT = {"avx512_vnni", "avx_vnni"}  # instructions that sum 8-bit products without saturating


def measure(options: ReportOptions, progress: Progress = SILENT) -> tuple[Results, Samples]:
    """All figures of a bundle's report, and the samples behind them."""
    start = perf_counter()
    bundle = open_bundle(options.bundle)
    bodies = _int8_bodies(bundle)
    reference = _open(bundle, "float32", options)
    prepared = io.load(bundle.graph(reference.body.graph), root=bundle.path)
    plan = judged_plan(reference, next(iter(bodies.values())), options)
    setting = Setting(
        plan=plan,
        teacher=reference.compile(options.teacher, plan.guidance),
        teacher_seeds=min(options.teacher_seeds, options.seeds),
        seeds=options.seeds,
        x_shape=bundle.manifest.x_shape,
        conditions=lambda seeds: held_out_conditions(bundle.manifest.conditions, seeds),
        batch=BATCH,
    )
    candidates = [_candidate(bundle, name, body, options) for name, body in bodies.items()]
    found = evaluate(setting, denoiser(reference), candidates, progress)
    qualities = tuple(
        Quality(
            body=candidate.name,
            target=bodies[candidate.name].target,
            engine=ENGINE if _is_native(bodies[candidate.name]) else SIMULATION,
            against_float=found.judgements[candidate.name].against_float,
            against_teacher=found.judgements[candidate.name].against_teacher,
            steps=found.judgements[candidate.name].steps,
            forced_seeds=candidate.forced_seeds,
        )
        for candidate in candidates
    )
    measured = Results(
        schema=results.SCHEMA,
        bundle=bundle.manifest.name,
        plan=plan.name,
        guidance=plan.guidance,
        teacher=setting.teacher.name,
        batch=BATCH,
        float_against_teacher=found.float_against_teacher,
        qualities=qualities,
        covered=tuple(covered(bundle, prepared)),
        ranges=ranges_over_groups(bundle, prepared, next(iter(bodies.values()))),
        races=tuple(races(bundle, plan, options, progress)),
        sizes={name: _size(bundle, body) for name, body in bundle.manifest.bodies.items()},
        machine=this_machine(),
        command=options.command,
        seconds=perf_counter() - start,
        notes=tuple(notes(bodies.values(), this_machine())),
    )
    samples = Samples(
        teacher=found.teacher,
        reference=found.reference,
        bodies={name: judgement.samples for name, judgement in found.judgements.items()},
        labels=[label(bundle.manifest.conditions, seed) for seed in range(options.seeds)],
        teacher_name=setting.teacher.name,
        plan_name=plan.name,
    )
    return measured, samples


def judged_plan(reference: Sampler, body: Body, options: ReportOptions) -> Plan:
    """The plan asked for, or else the one that the body was calibrated along, guidance included."""
    file = reference.bundle.manifest.plans.get(body.plan or "")
    if file is None:
        return reference.compile(options.plan or body.plan or "dpmpp_2m:8", options.guidance)
    calibrated = decode(reference.bundle.read(file), file)
    guidance = calibrated.guidance if options.guidance is None else options.guidance
    if options.plan in ("", calibrated.name) and guidance == calibrated.guidance:
        return reference.compile(calibrated)
    return reference.compile(options.plan or calibrated.name, guidance)


def denoiser(sampler: Sampler) -> Denoiser:
    """A loaded body as `evaluate` wants it."""
    return lambda plan, samples, conditions: sampler.network(sampler.compile(plan), samples, conditions)


def races(bundle: Bundle, plan: Plan, options: ReportOptions, progress: Progress = SILENT) -> list[Race]:
    """float32 against the int8 bodies that run here, at each batch size, fed as in the middle of the plan."""
    names = ["float32", *(name for name, body in _int8_bodies(bundle).items() if _is_native(body))]
    if len(names) < 2:
        return []
    samplers = {name: _open(bundle, name, options) for name in names}
    return race_bodies(samplers, plan, options.batches, options.threads, options.rounds, options.turn_seconds, progress)


def race_bodies(
    samplers: Mapping[str, Sampler],
    plan: Plan,
    batches: Sequence[int],
    threads: int,
    rounds: int,
    seconds: float = 0.5,
    progress: Progress = SILENT,
) -> list[Race]:
    """One race a batch size between loaded bodies, against the first; each is fed what it meets along the plan."""
    found = []
    for batch in batches:
        contenders = [
            Contender(name, sampler.bundle.graph(sampler.body.graph), feeds(sampler, plan, batch))
            for name, sampler in samplers.items()
        ]
        found.append(race(contenders, threads, rounds, seconds, progress))
    return found


def feeds(sampler: Sampler, plan: Plan, samples: int) -> Arrays:
    """What the body is fed at the middle step of a plan: every branch of `samples` samples."""
    evaluations = roll_out(sampler, plan, range(samples), batch=samples)
    return next(e.feeds for e in evaluations if e.state.index == len(plan.steps) // 2)


def ranges_over_groups(bundle: Bundle, prepared: Graph, body: Body) -> tuple[RangeOverGroups, ...]:
    """The quantized activations whose range changes most between lambda groups.

    None if there is one group only, or if the table is not the body's: a later calibration, for another target and
    along another plan, has replaced it.
    """
    if bundle.manifest.ranges is None:
        return ()
    ranges = table.load(bundle.file(bundle.manifest.ranges))
    if ranges.plan != body.plan:
        return ()
    names: dict[str, str] = {}
    for op in selected_ops(prepared):
        layer = op.node.name or op.name
        names.setdefault(op.x, f"input of {layer}")
        names.setdefault(op.name, f"output of {layer}")
    widths = {
        name: tuple((each.high - each.low) / (own.pooled.high - own.pooled.low) for each in own.per_group)
        for name, own in ranges.tensors.items()
        if name in names and len(own.per_group) > 1
    }
    most = sorted(widths, key=lambda name: min(widths[name]))[:RANGES_SHOWN]
    return tuple(RangeOverGroups(names[name], widths[name]) for name in most)


def covered(bundle: Bundle, prepared: Graph) -> list[Covered]:
    """Coverage of each int8 body, as calibration counted it, with what the prepared graph says of each operation."""
    return [
        operations(prepared, name, body.coverage)
        for name, body in _int8_bodies(bundle).items()
        if body.coverage is not None and body.coverage.total_macs > 0  # else it was edited
    ]


def notes(bodies: Iterable[Body], machine: Machine) -> Iterator[str]:
    """What a reader must know of the bodies, and of this machine, to believe the figures."""
    known = {target.name: target for target in TARGETS}
    for body in bodies:
        for note in known[body.target].notes if body.target in known else ():
            yield f"{body.target}: {note}."
        if body.target == "cpu-x86" and EXACT.isdisjoint(machine.int8_instructions):
            yield "cpu-x86: no VNNI was seen on this machine, so its int8 figures may include saturation."


def _is_native(body: Body) -> bool:
    return body.target in NATIVE


def _int8_bodies(bundle: Bundle) -> dict[str, Body]:
    """Those that run here natively first."""
    found = {name: body for name, body in bundle.manifest.bodies.items() if body.precision == "int8"}
    if not found:
        raise UserError(f"{bundle.path} has no int8 body to judge", f"fewstep calibrate {bundle.path}")
    return dict(sorted(found.items(), key=lambda item: not _is_native(item[1])))


def _open(bundle: Bundle, name: str, options: ReportOptions) -> Sampler:
    """A body on onnxruntime: fused as it is deployed, or with Q/DQ kept, which simulates another engine's numerics."""
    body = bundle.body(name)
    fused = body.precision != "int8" or _is_native(body)
    return load(bundle.path, body=name, backend=OnnxRuntime(threads=options.threads, fuse_qdq=fused))


def _candidate(bundle: Bundle, name: str, body: Body, options: ReportOptions) -> Candidate:
    native = _is_native(body)
    seeds = options.seeds if native else min(options.seeds, options.simulated_seeds)
    forced = min(seeds, options.forced_seeds if native else options.forced_seeds // 2 or 1)
    return Candidate(name, denoiser(_open(bundle, name, options)), body.groups, seeds, forced)


def _size(bundle: Bundle, body: Body) -> int:
    return sum((bundle.path / name).stat().st_size for name in (body.graph.file, *body.graph.data))
