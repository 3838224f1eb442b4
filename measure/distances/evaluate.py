"""The verb that says how far int8 samples are from float32 ones: one by one, and as a distribution.

Comparisons that are never mixed: the same seeds by int8 and by float32 along one plan; both against the float32 teacher
of many steps; the distributions of both against other float32 samples, and against data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np

from fewstep.graph.commit import open_for_update
from fewstep.graph.needs import check_memory
from fewstep.graph.output import write_whole
from fewstep.measure.bodies import engine_of, graph_files, int8_bodies, is_native, not_judged
from fewstep.measure.distances import distance
from fewstep.measure.distances.features import Extractor, default_features, open_extractor
from fewstep.measure.distances.judged_tokens import judge_tokens
from fewstep.measure.distances.references import References, open_references
from fewstep.measure.distances.sample_sets import (
    Floats,
    SeedCounts,
    Tally,
    features_apart,
    features_of,
    sample_pairs,
)
from fewstep.measure.judged_task import JudgedTask, JudgementOptions, check_output, open_judged_task
from fewstep.measure.results import (
    SCHEMA,
    BodyEvaluation,
    Distance,
    EndQuality,
    EvaluationResults,
    Features,
    TokenQuality,
    encode,
)
from fewstep.measure.rollouts.held_out import APART, PAIRED
from fewstep.measure.sampling_job import Sampling
from fewstep.measure.speed.machine import this_machine
from fewstep.measure.teacher import Teacher
from fewstep.measure.workers.in_order import Workers
from fewstep.measure.workers.opening import opened
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import describe
from fewstep.plans.plan import regroup
from fewstep.runtime.bundle.networks import edges_of
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sizes import x_dtype

LEAST_SAMPLES = 100  # of a distance: fewer are nothing but noise

ROOM = 2**20  # bytes of the figures, which are seldom more
TAUGHT = 32  # seeds that the teacher samples, unless others are asked for


@dataclass(frozen=True)
class EvaluateOptions(JudgementOptions):
    """Compare int8 samples with float32 ones: seed by seed, and as a distribution.

    bundle: The bundle; the figures are stored in it, and the next report shows them.
    output: A JSON file for the figures instead; the bundle stays unchanged. A plan or a guidance other than the
        calibrated one needs this option, because the bundle keeps the figures of the calibrated plan.
    body: Names of int8 bodies. Default: those that run here natively; others are simulated, slowly.
    seeds: Number of held-out seeds that are compared one by one.
    samples: Samples in each set of a distribution; 0 for none.
    features: fashion-mnist-cnn, cifar10-cnn, the path of an .onnx extractor, or none. Default: the extractor that knows
        the data. An extractor of tokens takes int64 ids.
    data: An array of real samples (.npy, uint8, or float in model range, or ids), for a comparison with them as well.
    teacher_seeds: Number of seeds that the teacher samples. Default: 32, or all seeds if there are fewer.
    resamples: Number of resamples of the bootstrap for each interval.
    """

    bundle: Path
    output: Path | None = field(default=None, metadata={"short": "-o"})
    body: tuple[str, ...] = ()
    seeds: int = 256
    samples: int = 2000
    features: str = ""
    data: Path | None = None
    teacher_seeds: int | None = None
    resamples: int = distance.RESAMPLES

    @property
    def taught(self) -> int:
        """How many seeds the teacher samples."""
        return min(TAUGHT, self.seeds) if self.teacher_seeds is None else self.teacher_seeds

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.seeds <= len(PAIRED):
            raise UserError(f"--seeds is {self.seeds}", f"give 1 to {len(PAIRED)}: so many are held out")
        if not 0 < self.taught <= self.seeds:
            raise UserError(f"--teacher-seeds is {self.teacher_seeds}", f"give 1 to {self.seeds}, as --seeds")
        if self.samples and not LEAST_SAMPLES <= self.samples <= len(APART):
            fix = f"give {LEAST_SAMPLES} to {len(APART)}, or 0 for no distances"
            raise UserError(f"--samples is {self.samples}", fix)
        if self.resamples < 20:
            raise UserError(f"--resamples is {self.resamples}", "give at least 20")


def evaluate(
    options: EvaluateOptions, progress: Progress = SILENT, workers: Workers | None = None
) -> EvaluationResults:
    """Evaluate a bundle, and store the figures in it as JSON, or elsewhere.

    Sampling takes minutes and does not hold the bundle's lock; if its bodies change meanwhile, nothing is written.
    """
    task = open_task(options)
    check_memory(task.needs(ROOM), options.bundle)
    with opened(options.workers, workers, options.threads) as hands:
        measured = measure(task, options, progress, hands)
    if options.output is not None:
        write_whole(options.output, encode(measured))
        return measured
    before = task.bundle.manifest
    with open_for_update(options.bundle, must_exist=True) as writer:
        manifest = open_bundle(options.bundle).manifest
        if (manifest.bodies, manifest.prologue) != (before.bodies, before.prologue):
            raise UserError(f"{options.bundle} was changed while it was evaluated", "evaluate it again")
        stored = writer.add(encode(measured), folder="report", name="evaluation", suffix=".json")
        writer.commit(msgspec.structs.replace(manifest, evaluation=stored))
    return measured


@dataclass(frozen=True)
class EvaluationTask(JudgedTask):
    """What is evaluated, with the extractor and the data of distances."""

    extractor: Extractor | None
    data: References | None


def open_task(options: EvaluateOptions) -> EvaluationTask:
    """Check everything that needs no other body than float32. UserError if it cannot be done."""
    bundle = open_bundle(options.bundle)
    names = _chosen(bundle, options.body)
    extractor, data = _open_features(bundle, options)
    task = EvaluationTask(**vars(open_judged_task(bundle, names, options)), extractor=extractor, data=data)
    check_output(task, options.output, ROOM, "figures", ".json")
    if own := [name for name, each in task.plans.items() if each != task.plan]:
        others = ", ".join(own)
        what = f"plan {task.plan.name} is another one for {others}"
        raise UserError(what, f"evaluate bodies one by one: --body {own[0]}")
    return task


def measure(
    task: EvaluationTask, options: EvaluateOptions, progress: Progress = SILENT, workers: Workers | None = None
) -> EvaluationResults:
    """All figures of an evaluation."""
    start = perf_counter()
    sampling, plan, extractor, teacher = task.sampling(workers), task.plan, task.extractor, None
    counts = SeedCounts(0, 0, options.samples if extractor else 0)  # of tokens: no single sample is compared
    if task.teacher is not None:
        teacher = task.checked_teacher(sampling, options.taught, progress)
        counts = SeedCounts(options.seeds, options.taught, counts.featured)
    plans = plan, teacher.plan if teacher else plan
    floats, tallies = sample_pairs(sampling, plans, tuple(task.bodies), counts, extractor, task.conditions, progress)
    ends = _ends(task, options, sampling, tallies, teacher, progress)
    sets = {}
    if extractor is not None:
        apart = features_apart(sampling, plan, options.samples, extractor, task.conditions, progress)
        sets = {f"float32, {plan.name}, other seeds": apart}
        if task.data is not None:
            sets[task.data.name] = features_of(task.data, extractor, progress)
    distances = _distances(floats, tallies, sets, options.resamples, progress)
    return EvaluationResults(
        schema=SCHEMA,
        bundle=task.bundle.manifest.name,
        plan=plan.name,
        guidance=None if plan.guidance is None else describe(plan.guidance),
        teacher=teacher.plan.name if teacher else None,
        float_against_teacher=floats.against_teacher.quality(f"float32, {teacher.plan.name}") if teacher else None,
        bodies=tuple(
            BodyEvaluation(
                body=name,
                graphs=graph_files(task.bodies[name]),
                engine=engine_of(task.bodies[name]),
                against_float=end,
                against_teacher=taught,
                distances=distances[name],
                tokens=tokens,
            )
            for name, (end, taught, tokens) in ends.items()
        ),
        features=_described(extractor, floats),
        machine=this_machine(),
        command=options.command("evaluate"),
        seconds=perf_counter() - start,
        teacher_check=teacher.check if teacher else None,
    )


def _ends(
    task: EvaluationTask,
    options: EvaluateOptions,
    sampling: Sampling,
    tallies: Mapping[str, Tally],
    teacher: Teacher | None,
    progress: Progress,
) -> dict[str, tuple[EndQuality, EndQuality | None, TokenQuality | None]]:
    """By body: its quality against float32, against the teacher, and of tokens."""
    if teacher is None:
        edges = {name: edges_of(task.bundle.manifest, name) for name in task.bodies}
        own: Any = {name: (regroup(task.plan, each), options.seeds) for name, each in edges.items()}
        judged = judge_tokens(sampling, own, task.rows, progress)
        return {name: (end, None, tokens) for name, (end, tokens) in judged.items()}
    labels = f"float32, {task.plan.name}", f"float32, {teacher.plan.name}"
    return {
        name: (tally.against_float.quality(labels[0]), tally.against_teacher.quality(labels[1]), None)
        for name, tally in tallies.items()
    }


def _chosen(bundle: Bundle, asked: Sequence[str]) -> list[str]:
    """Names of the bodies to evaluate."""
    bodies = int8_bodies(bundle)
    if not asked:
        natives = [name for name, body in bodies.items() if is_native(body)]
        return natives or list(bodies)
    for name in asked:
        if name in (refused := not_judged(bundle)):
            raise refused[name]
        if name not in bodies:
            raise UserError(f"{bundle.path} has no int8 body {name!r}", f"give some of {', '.join(bodies)}")
    return list(asked)


def _open_features(bundle: Bundle, options: EvaluateOptions) -> tuple[Extractor | None, References | None]:
    """What distances are measured with, and the data to compare with, opened before anything is sampled."""
    manifest, extractor = bundle.manifest, None
    shape, ids = manifest.x_shape, manifest.vocabulary.size if manifest.vocabulary else None
    if options.samples:
        name = options.features or default_features(manifest)
        extractor = open_extractor(name, shape, options.threads, x_dtype(manifest))
    if options.data is None:
        return extractor, None
    if extractor is None:
        raise UserError("data without features", "name an extractor with --features, and samples with --samples")
    return extractor, open_references(options.data, shape, ids)


def _described(extractor: Extractor | None, floats: Tally) -> Features | None:
    """The extractor, and what theory expects of the distance between two float32 sets."""
    if extractor is None:
        return None
    fitted = distance.fit(np.concatenate(floats.features))
    expected = distance.bias(fitted, fitted.count, fitted.count)
    return Features(extractor.name, extractor.sha256, len(fitted.mean), expected)


def _distances(
    floats: Tally, tallies: Mapping[str, Tally], sets: Mapping[str, Floats], resamples: int, progress: Progress
) -> dict[str, tuple[Distance, ...]]:
    """The distance of each body to each set of references. The first set is float32's own, so it gives the floor."""
    distances: dict[str, list[Distance]] = {name: [] for name in tallies}
    floor: float | None = None
    for label, reference in sets.items():
        own = np.concatenate(floats.features)
        fitted = distance.fit(reference)
        nearest = distance.frechet(distance.fit(own), fitted)
        floor = nearest if floor is None else floor
        for name, tally in tallies.items():
            features = np.concatenate(tally.features)
            far = distance.frechet(distance.fit(features), fitted)
            low, high = distance.difference_interval(features, own, reference, resamples)
            distances[name].append(
                Distance(
                    reference=label,
                    samples=len(features),
                    references=len(reference),
                    frechet=far,
                    frechet_float=nearest,
                    difference=far - nearest,
                    low=low,
                    high=high,
                    floor=floor,
                    detectable=distance.is_detectable(far - nearest, (low, high), floor),
                )
            )
            progress("distances", sum(map(len, distances.values())), len(sets) * len(tallies))
    return {name: tuple(each) for name, each in distances.items()}
