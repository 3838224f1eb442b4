"""The float32 runs of a network with which its int8 bodies are compared. Each is recorded once.

Loading a session of a large network takes as long as an evaluation, and memory holds only one session. So a large
network records both runs in its first session, from which the time of an evaluation is also estimated.
"""

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter

from fewstep.calibration.sample_space import JudgingRun, record_judging_run
from fewstep.calibration.task import Task
from fewstep.measure.judges.trial import try_judge
from fewstep.measure.rollouts.on_demand import close
from fewstep.measure.rollouts.record_sizes import records_of_one_size
from fewstep.measure.rollouts.recorded_run import RecordedRun, record_run, record_runs, record_search_runs
from fewstep.measure.rollouts.row_by_row import with_row_by_row_body
from fewstep.measure.rollouts.seeds import BODY_SEEDS, OPERATION_SEEDS, VERDICT_SEEDS
from fewstep.plans.any_plan import AnyPlan, check_compiled
from fewstep.plans.errors import UserError
from fewstep.runtime.progress import Progress, prefix_stages

LOG = logging.getLogger("fewstep")
TIMED_STEPS = 2  # the first one also opens the session and allocates memory


@dataclass(frozen=True)
class FloatRuns:
    """The recorded float32 runs of a task along `plan`, whose steps are assigned to the range groups of the
    calibration. All targets share these runs.

    The network stays open after a run is recorded: call `close` before anything else needs memory.
    """

    task: Task
    plan: AnyPlan
    progress: Progress

    @cached_property
    def judging(self) -> JudgingRun:
        """The recorded float32 run with which all int8 bodies are compared."""
        return record_judging_run(self.task, self.plan, self.progress)

    @cached_property
    def of_operations(self) -> RecordedRun:
        """The recorded float32 run on which the error of each operation in int8 is measured."""
        return self._record_operations(prefix_stages(self.progress, "errors of operations"))

    @cached_property
    def of_search(self) -> tuple[RecordedRun, tuple[RecordedRun, ...]]:
        """The recorded float32 run on which precisions are searched, and the runs on which the result is judged. The
        network is closed afterwards."""
        shown = prefix_stages(self.progress, "search")
        task = self.task
        runs = record_search_runs(task.sampler, check_compiled(self.plan), task.conditions, task.judging.records, shown)
        self.close()
        return runs

    def record_all(self, announce: Callable[[float], object]) -> None:
        """Record both `of_operations` and `judging` in one session, and close it.

        `announce` receives the seconds of one evaluation of one sample after two steps. A UserError is ignored here:
        counting activations raises it again and names the tensor. A run that is then missing is recorded at its first
        use.
        """
        seeds = len(OPERATION_SEEDS[: len(self.task.seeds)])
        shown = prefix_stages(self.progress, "errors of operations")
        with suppress(UserError):
            vars(self)["of_operations"] = self._record_operations(_time_steps(shown, seeds, announce))
            self.judging  # noqa: B018 - the property keeps it
        self.close()

    def record_judging(self) -> None:
        """Record the run with which all bodies are compared, unless it is recorded already. The user's judge scores it
        now, so that a judge that fails does so before bodies are made. Log a warning if float32 misses its limit."""
        recorded, judge = self.judging, self.task.judge
        if judge is not None and not (score := judge.judge(recorded.float_pairs)).float32.is_kept:
            LOG.warning("float32 itself %s, on %d seeds", score.float32.problem, score.seeds)

    def record_further(self) -> Generator[RecordedRun]:
        """Yield runs on further seeds, a few at a time, on which the bodies that are written are judged. They have only
        the last state. Each is recorded once, when it is needed first. The network is closed at the end."""
        runs: dict[range, list[RecordedRun]] = vars(self).setdefault("_further", {})
        task = self.task
        sampler = task.with_all_networks(with_row_by_row_body(task.sampler) if task.is_large else task.sampler)
        try:
            for part in further_seeds(task):
                if part not in runs:
                    plan = check_compiled(self.plan)
                    recorded = record_runs(sampler, plan, part, task.judging.records, network=task.network)
                    runs[part] = [replace(run, states=run.states[-1:]) for run in recorded]
                yield from runs[part]
        finally:
            self.close()

    def close(self) -> None:
        """Unload the float32 network, because it and a large int8 body do not fit in memory together."""
        close(self.task.sampler.network().graph)

    def _record_operations(self, progress: Progress) -> RecordedRun:
        return self._record(OPERATION_SEEDS[: len(self.task.seeds)], progress)

    def _record(self, seeds: Sequence[int], progress: Progress) -> RecordedRun:
        task = self.task
        sampler = task.with_all_networks(with_row_by_row_body(task.sampler))
        records = records_of_one_size(task.conditions)
        return record_run(sampler, check_compiled(self.plan), seeds, records, progress, task.network)


def try_judge_of(task: Task) -> None:
    """Let the user's judge score two samples of float32, if there is one. Raises UserError if it fails."""
    if task.judge is None:
        return
    sampler = task.with_all_networks(with_row_by_row_body(task.sampler) if task.is_large else task.sampler)
    try_judge(task.judge, sampler, task.plan, task.conditions)
    close(task.sampler.network().graph)


def further_seeds(task: Task) -> list[range]:
    """Return the further seeds on which a body that is written is judged, in parts. With BODY_SEEDS they are as many as
    the trajectories. None for a large network, which is not open together with a body."""
    if task.sampler.body.graph.data:
        return []
    seeds, size = VERDICT_SEEDS[: max(0, len(task.seeds) - len(BODY_SEEDS))], len(BODY_SEEDS)
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def _time_steps(progress: Progress, samples: int, announce: Callable[[float], object]) -> Progress:
    """Return a progress function that also times step number TIMED_STEPS, and passes its seconds per sample to
    `announce`."""
    before = perf_counter()

    def report(stage: str, done: int, total: int) -> None:
        nonlocal before
        now = perf_counter()
        if done == TIMED_STEPS:
            announce((now - before) / samples)
        before = now
        progress(stage, done, total)

    return report
