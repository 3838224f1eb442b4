"""A measurement, which `measure` and `report` run: the quality of bodies, by sample and as sets, and their time.

There are three comparisons, which are never mixed: int8 with float32 on the same seeds along one plan; both with the
float32 teacher of many steps; and the distributions of both with other float32 samples, and with data.
"""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from fewstep.measure.bodies import graph_files
from fewstep.measure.body_backends import inference_engine_of
from fewstep.measure.cost import BATCH
from fewstep.measure.estimate import Estimate, seconds_per_evaluation
from fewstep.measure.judge import Judgements, judge
from fewstep.measure.judged_task import JudgedTask
from fewstep.measure.results import SCHEMA, Distance, ExtractorFacts, Quality, Results
from fewstep.measure.rollouts.prompts import HELD_OUT, given_conditions
from fewstep.measure.speed.machine import this_machine
from fewstep.measure.speed.timed_bodies import TimedBodies, run_races
from fewstep.measure.tally import JudgementRequest
from fewstep.measure.workers.job import Workers
from fewstep.measure.workers.setup import WorkerSetup, start_workers
from fewstep.plans.any_plan import shaping_of
from fewstep.plans.guidance import describe
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import describe_shaping
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.progress import SILENT, Progress

if TYPE_CHECKING:
    from fewstep.measure.distances.features import Extractor


@dataclass(frozen=True)
class MeasureTask:
    """The task of a measurement, after all checks.

    command: the command line that requests it.
    setup: the workers that sample.
    judged, timed: the tasks of judging and of timing; None if no column needs them.
    sizes: bytes of the bodies.
    notes: sentences for readers of the figures.
    """

    bundle: Bundle
    plan: Plan
    command: str
    setup: WorkerSetup
    judged: JudgedTask | None
    timed: TimedBodies | None
    sizes: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def estimate(self) -> Estimate:
        """Estimate the duration of a measurement, at float32's speed."""
        timing = 0.0 if self.timed is None else self.timed.seconds
        if self.judged is None:
            return Estimate(evaluations=0, sampling=0.0, timing=timing)
        task, count = self.judged, self.judged.evaluations
        return Estimate(
            count, count * seconds_per_evaluation(task.reference, task.plan_to_time(), task.records), timing
        )


def run_measurement(
    task: MeasureTask, progress: Progress = SILENT, workers: Executor | None = None
) -> tuple[Results, Judgements | None]:
    """Measure the figures of a task. Also return the judgements (with samples, if the task keeps them), or None if
    nothing is judged.

    `workers`, if given, sample instead of the task's own. The task's own workers end before bodies are timed.
    """
    start, plan, timed, judgements = perf_counter(), task.plan, task.timed, None
    results = Results(
        schema=SCHEMA,
        bundle=task.bundle.manifest.name,
        plan=plan.name,
        guidance=None if plan.guidance is None else describe(plan.guidance),
        teacher=None,
        batch=BATCH,
        float_against_teacher=None,
        qualities=(),
        covered=(),  # a report adds it
        races=(),
        sizes=dict(task.sizes),
        machine=this_machine(),
        command=task.command,
        seconds=0.0,
        notes=task.notes,
        random_conditions=task.judged.random if task.judged else (),
        shaping=None if (shaping := shaping_of(plan)) is None else describe_shaping(shaping),
        spinning=timed.turns.spinning if timed else True,
    )
    if task.judged is not None:
        with start_workers(task.setup, workers) as open_workers:
            results, judgements = _measure_quality(results, task.judged, progress, open_workers)
    if timed is not None:
        drawn = given_conditions(task.bundle, None, None, HELD_OUT)
        records = task.judged.records if task.judged else drawn.records
        results = msgspec.structs.replace(results, races=run_races(task.bundle, timed, records, progress))
    return msgspec.structs.replace(results, seconds=perf_counter() - start), judgements


def _measure_quality(
    results: Results, task: JudgedTask, progress: Progress, workers: Workers | None
) -> tuple[Results, Judgements]:
    """Return the results with the quality of each body, and the judgements from which it is computed."""
    sampling, extractor = task.open_sampling(workers), task.extractor
    teacher = (
        None
        if task.teacher is None
        else task.find_teacher(task.teacher_sample_count, progress, sampling.sample_in_parts)
    )
    extract = None if extractor is None else extractor.extract
    plan = None if teacher is None else teacher.plan
    want = JudgementRequest(
        teacher=plan,
        teacher_sample_count=task.teacher_sample_count,
        extract=extract,
        featured=task.featured,
        samples=task.has_samples,
    )
    judgements = judge(sampling.answers, task.contenders, task.plan, task.held_out_batch, task.count, want, progress)
    features, sets = (None, {}) if extractor is None else _measure_distances(task, extractor, judgements, progress)
    results = msgspec.structs.replace(
        results,
        teacher=teacher.plan.name if teacher else None,
        teacher_check=teacher.check if teacher else None,
        float_against_teacher=judgements.reference.against_teacher,
        features=features,
        qualities=tuple(
            Quality(
                body=each.name,
                target=task.bodies[each.name].target,
                computed_by=inference_engine_of(task.bodies[each.name]),
                against_float=judgement.against_float,
                against_teacher=judgement.against_teacher,
                steps=judgement.steps,
                forced_seeds=each.forced_seeds,
                tokens=judgement.tokens,
                distances=sets.get(each.name, ()),
                graphs=graph_files(task.bodies[each.name]),
            )
            for each in task.contenders
            if (judgement := judgements.bodies[each.name]).against_float is not None
        ),
    )
    return results, judgements


def _measure_distances(
    task: JudgedTask, extractor: "Extractor", judgements: Judgements, progress: Progress
) -> tuple[ExtractorFacts, dict[str, tuple[Distance, ...]]]:
    """Return the extractor, and the distances of each body to float32 samples from other seeds and to the data."""
    from fewstep.measure.distances.set_distances import (  # imported only here, since a page compares no sets
        extract_features,
        extractor_facts,
        measure_distances,
    )

    sets = {f"float32, {task.plan.name}, other seeds": judgements.apart}
    if task.data is not None:
        sets[task.data.name] = extract_features(task.data, extractor, progress)
    features = {name: judgement.features for name, judgement in judgements.bodies.items()}
    floats = judgements.reference.features
    return extractor_facts(extractor, floats), measure_distances(floats, features, sets, task.resamples, progress)
