"""The float32 runs of a network with which its int8 bodies are compared. Each is recorded once.

Loading a session of a large network takes as long as an evaluation, and memory holds only one session. So a large
network records both runs in its first session, from which the time of an evaluation is also estimated.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter

from fewstep.calibration.sample_space import JudgingRun, record_judging_run
from fewstep.calibration.task import Task
from fewstep.measure.rollouts.on_demand import close
from fewstep.measure.rollouts.recorded_run import RecordedRun, record_run, record_search_runs
from fewstep.measure.rollouts.row_by_row import with_row_by_row_body
from fewstep.measure.rollouts.seeds import OPERATION_SEEDS
from fewstep.plans.any_plan import AnyPlan, check_compiled
from fewstep.plans.errors import UserError
from fewstep.runtime.progress import Progress, prefix_stages

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
        runs = record_search_runs(self.task.sampler, check_compiled(self.plan), self.task.conditions, shown)
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
            self.record_judging()
        self.close()

    def record_judging(self) -> None:
        """Record the run with which all bodies are compared, unless it is recorded already."""
        self.judging  # noqa: B018 - the property keeps it

    def close(self) -> None:
        """Unload the float32 network, because it and a large int8 body do not fit in memory together."""
        close(self.task.sampler.network().graph)

    def _record_operations(self, progress: Progress) -> RecordedRun:
        task, seeds = self.task, OPERATION_SEEDS[: len(self.task.seeds)]
        sampler = task.with_all_networks(with_row_by_row_body(task.sampler))
        return record_run(sampler, check_compiled(self.plan), seeds, task.conditions, progress, task.network)


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
