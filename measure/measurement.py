"""A measurement, which `measure` and `report` run: the quality of bodies, by sample and as sets, and their time.

There are three comparisons, which are never mixed: int8 with float32 on the same seeds along one plan; both with the
float32 teacher of many steps; and the distributions of both with other float32 samples, and with data.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter

import msgspec

from fewstep.measure.cost import BATCH
from fewstep.measure.estimate import Estimate, measure_load, seconds_per_evaluation
from fewstep.measure.judge import Judgements
from fewstep.measure.judged_task import JudgedTask
from fewstep.measure.quality import measure_quality
from fewstep.measure.results import SCHEMA, Results
from fewstep.measure.rollouts.conditions_file import describe_seen_records
from fewstep.measure.rollouts.prompts import HELD_OUT, given_conditions
from fewstep.measure.speed.machine import this_machine
from fewstep.measure.speed.timed_bodies import TimedBodies, run_races
from fewstep.measure.workers.setup import WorkerSetup, start_workers
from fewstep.plans.any_plan import shaping_of
from fewstep.plans.guidance import describe
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import describe_shaping
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.progress import SILENT, Progress

LOG = logging.getLogger("fewstep")


@dataclass(frozen=True)
class MeasureTask:
    """The inputs of a measurement, after all checks.

    command: the command line that requests it.
    setup: the worker processes that sample.
    judged, timed: the inputs of the comparison with float32 and of timing; None if no column needs them.
    sizes: bytes of the bodies.
    notes: sentences that explain the measurements.
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
        """Estimate the duration of a measurement, at float32's speed. Without a comparison, calls count as short."""
        task, seconds, count = self.judged, 0.0, 0
        if task is not None:
            count, batch = task.evaluations, min(BATCH, task.count)
            seconds = seconds_per_evaluation(task.reference, task.plan, task.records, count=count, batch=batch)
        timing = 0.0 if self.timed is None else self.timed.estimate_seconds(seconds, measure_load())
        return Estimate(count, count * seconds, timing)


def run_measurement(
    task: MeasureTask, progress: Progress = SILENT, workers: Executor | None = None
) -> tuple[Results, Judgements | None]:
    """Measure quality and speed as the task requests. Return the results, and the judgements (with samples, if the task
    keeps them) or None if nothing is judged.

    `workers`, if given, sample instead of the task's own. The task's own workers end before bodies are timed.
    """
    start, plan, timed, judgements = perf_counter(), task.plan, task.timed, None
    seen = () if task.judged is None else tuple(describe_seen_records(task.judged.bodies, task.judged.records))
    for line in seen:
        LOG.warning("%s", line)
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
        notes=(*task.notes, *seen),
        random_conditions=task.judged.random if task.judged else (),
        fixed_conditions=task.judged.fixed_conditions if task.judged else (),
        shaping=None if (shaping := shaping_of(plan)) is None else describe_shaping(shaping),
        spinning=timed.turns.spinning if timed else True,
    )
    if task.judged is not None:
        with start_workers(task.setup, workers) as open_workers:
            results, judgements = measure_quality(results, task.judged, progress, open_workers)
    if timed is not None:
        judged = task.judged
        records = judged.records if judged else given_conditions(task.bundle, None, None, HELD_OUT).records
        results = msgspec.structs.replace(results, races=run_races(task.bundle, timed, records, progress))
    return msgspec.structs.replace(results, seconds=perf_counter() - start), judgements
