"""A bundle's figures: which bodies are compared, how each is run, and everything the page needs."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from time import perf_counter
from typing import Any

import msgspec

from fewstep.calibration.comparable import judged_unlike
from fewstep.calibration.lowering.targets import targets_by_name
from fewstep.graph import io
from fewstep.graph.graph import Graph
from fewstep.measure import results
from fewstep.measure.bodies import backend_of, engine_of, int8_bodies, is_native, not_judged, open_body
from fewstep.measure.cost import BATCH, body_bytes
from fewstep.measure.distances.judge import Judgement, Judgements, Setting, judge
from fewstep.measure.distances.judged_batch import Candidate
from fewstep.measure.distances.judged_tokens import judge_tokens
from fewstep.measure.judged_task import JudgedTask
from fewstep.measure.results import BodyCoverage, Quality, Results
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.held_out import label
from fewstep.measure.sampling_job import FLOAT, Sampling
from fewstep.measure.speed.machine import Machine, this_machine
from fewstep.measure.speed.mean_step import int8_share, middle_feeds, parts_of, race_bodies
from fewstep.measure.speed.race import Race
from fewstep.measure.teacher import Teacher
from fewstep.measure.workers.in_order import Workers
from fewstep.measure.workers.opening import opened
from fewstep.plans.guidance import describe
from fewstep.plans.plan import Plan, regroup
from fewstep.report.joints import joint_errors
from fewstep.report.operations import operations, unseen_tensors
from fewstep.report.options import ReportOptions
from fewstep.report.samples import Samples
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.networks import edges_of, networks, whole_bodies
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, cpu_kind
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.machine.cpu import EXACT
from fewstep.runtime.progress import SILENT, Progress

LOG = logging.getLogger("fewstep")


def measure(
    task: JudgedTask, options: ReportOptions, progress: Progress = SILENT, workers: Workers | None = None
) -> tuple[Results, Samples | None]:
    """All figures of a bundle's report, and the samples behind them; None of tokens, of which there are no pictures.

    `workers` of the caller sample in the place of the options' own, which end before bodies are timed.
    """
    start, bundle, plan = perf_counter(), task.bundle, task.plan
    prepared = {
        name: io.load(bundle.graph(task.reference.of(name).body.graph), root=bundle.path)
        for name in networks(bundle.manifest)
    }
    candidates, left_out = candidates_of(task, options), tuple(_left_out(bundle))
    with opened(options.workers, workers, options.threads) as hands:
        sampling = task.sampling(hands)
        if task.teacher is None:
            qualities, teacher, judgements = _of_tokens(task, candidates, sampling, progress), None, None
        else:
            teacher, judgements = _judgements(task, candidates, options, sampling, progress)
            qualities = [_quality(task, each, judgements.bodies[each.name]) for each in candidates]
    measured = Results(
        schema=results.SCHEMA,
        bundle=bundle.manifest.name,
        plan=plan.name,
        guidance=None if plan.guidance is None else describe(plan.guidance),
        teacher=teacher.plan.name if teacher else None,
        batch=BATCH,
        float_against_teacher=judgements.float_against_teacher if judgements else None,
        qualities=tuple(qualities),
        covered=tuple(chain.from_iterable(covered(bundle, prepared, *each) for each in task.plans.items())),
        races=tuple(races(bundle, {FLOAT: plan, **task.plans}, options, task.rows, progress)),
        sizes={name: body_bytes(bundle, name) for name in whole_bodies(bundle.manifest)},
        machine=this_machine(),
        command=options.command("report"),
        made=bundle.manifest.provenance.commands,
        seconds=perf_counter() - start,
        notes=(*notes(task.bodies.values(), this_machine()), *_own_plans(task.plans), *left_out),
        teacher_check=teacher.check if teacher else None,
        unlike=judged_unlike(bundle, plan),
    )
    if teacher is None or judgements is None:
        return measured, None
    samples = Samples(
        teacher=judgements.teacher,
        reference=judgements.reference,
        bodies={name: body.samples for name, body in judgements.bodies.items()},
        references={name: body.reference for name, body in judgements.bodies.items()},
        labels=[label(bundle.manifest.conditions, seed, task.rows) for seed in range(options.seeds)],
        teacher_name=teacher.plan.name,
        plan_name=plan.name,
    )
    return measured, samples


def _left_out(bundle: Bundle) -> Iterator[str]:
    """A sentence, and a warning, for each body that is not judged."""
    for name, error in not_judged(bundle).items():
        sentence = f"Not judged: {name}, since {error.what.replace(f'{bundle.path}: ', '')}."  # a page may be shown
        LOG.warning("%s", sentence)
        yield sentence


def _judgements(
    task: JudgedTask,
    candidates: Sequence[Candidate],
    options: ReportOptions,
    sampling: Sampling,
    progress: Progress,
) -> tuple[Teacher, Judgements]:
    """The checked teacher, and every candidate's samples with the teacher's and float32's."""
    taught = min(options.teacher_seeds, options.seeds)
    teacher = task.checked_teacher(sampling, taught, progress)
    setting = Setting(
        plan=task.plan,
        teacher=teacher.plan,
        teacher_seeds=taught,
        seeds=options.seeds,
        x_shape=task.bundle.manifest.x_shape,
        conditions=task.conditions,
    )
    return teacher, judge(setting, candidates, sampling.answers, progress)


def _of_tokens(
    task: JudgedTask, candidates: Sequence[Candidate], sampling: Sampling, progress: Progress
) -> list[Quality]:
    """The quality of each body of a token denoiser."""
    plans: Any = {each.name: (regroup(task.plans[each.name], each.groups), each.seeds) for each in candidates}
    return [
        Quality(name, body.target, engine_of(body), end, None, (), plans[name][1], tokens=tokens)
        for name, (end, tokens) in judge_tokens(sampling, plans, task.rows, progress).items()
        for body in [task.bodies[name]]
    ]


def _quality(task: JudgedTask, candidate: Candidate, judgement: Judgement) -> Quality:
    body = task.bodies[candidate.name]
    return Quality(
        body=candidate.name,
        target=body.target,
        engine=engine_of(body),
        against_float=judgement.against_float,
        against_teacher=judgement.against_teacher,
        steps=judgement.steps,
        forced_seeds=candidate.forced_seeds,
        joints=joint_errors(task.bundle.manifest, judgement.samples, judgement.reference),
    )


def races(
    bundle: Bundle,
    plans: Mapping[str, Plan],
    options: ReportOptions,
    rows: ConditionRecords | None = None,
    progress: Progress = SILENT,
) -> list[Race]:
    """float32 on onnxruntime against the int8 bodies that run here, each on its engine, at each batch size, fed as in
    the middle of its plan. `plans` are by body."""
    names = [FLOAT, *(name for name, body in int8_bodies(bundle).items() if is_native(body))]
    if len(names) < 2:
        return []
    opened = {name: open_body(bundle, name, options.threads) for name in names}
    backends = {name: backend_of(sampler.body) for name, sampler in opened.items()}
    elsewhere = [name for name in names if backends[name] != ONNXRUNTIME]
    timed = []
    for batch in options.batches:
        fed = {name: middle_feeds(sampler, plans[name], batch, rows) for name, sampler in opened.items()}
        parts = []
        for name in sorted(names, key=elsewhere.__contains__):
            on = (name, backends[name]) if name in elsewhere else ()
            parts += parts_of(bundle, name, plans[name], fed[name], *on)
        timed.append(race_bodies(parts, options.threads, options.rounds, options.turn_seconds, progress))
    return timed


def covered(bundle: Bundle, prepared: Mapping[str, Graph], name: str, plan: Plan) -> Iterator[BodyCoverage]:
    """Coverage of an int8 body along its plan, network by network, as calibration counted it, with what the prepared
    graph says of each operation."""
    for network, graph in prepared.items():
        own = bundle.network(network)
        body, coverage = own.body(name), own.body(name).graph.coverage
        if coverage is not None and coverage.total_macs > 0:  # else it was edited
            share = int8_share(body, plan, network)
            steps = sum(step.network == network for step in plan.steps)
            seen = operations(graph, name, coverage, unseen_tensors(own, body))
            yield msgspec.structs.replace(
                seen, network=network, share=seen.share if share is None else share, work=steps * coverage.total_macs
            )


def notes(bodies: Iterable[Body], machine: Machine) -> Iterator[str]:
    """What a reader must know of the bodies, and of this machine, to believe the figures."""
    targets = targets_by_name()
    for target in (targets[body.target] for body in bodies if body.target in targets):
        for note in target.notes:
            yield f"{target.name}: {note}."
        is_x86 = cpu_kind(machine.system.rpartition(" ")[2]) == "x86"
        if target.platform.saturates and is_x86 and EXACT.isdisjoint(machine.int8_instructions):
            yield f"{target.name}: no VNNI was seen on this machine, so its int8 figures may include saturation."


def _own_plans(plans: Mapping[str, Plan]) -> Iterator[str]:
    """What a reader must know of the plans, by body, where they differ."""
    first = next(iter(plans.values()))
    if own := [name for name, plan in plans.items() if plan != first]:
        others = ", ".join(own)
        yield f"{others}: {first.name} is the plan that was fitted to each, and float32 runs it beside the body."


def candidates_of(task: JudgedTask, options: ReportOptions) -> list[Candidate]:
    """The bodies that are judged, and on how many seeds each: fewer where its numerics are simulated. All run the first
    plan but a body that has another."""
    candidates = []
    for name, body in task.bodies.items():
        native, own = is_native(body), task.plans[name]
        seeds = options.seeds if native else min(options.seeds, options.simulated_seeds)
        forced = min(seeds, options.forced_seeds if native else options.forced_seeds // 2 or 1)
        edges = edges_of(task.bundle.manifest, name)
        candidates.append(Candidate(name, edges, seeds, forced, None if own == task.plan else own))
    return candidates
