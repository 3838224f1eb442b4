"""Two clocks run the same control loop: the wall clock, with a thread that samples, and a virtual one for simulations.

Under the virtual clock nothing depends on the speed of a machine. Runners that share it are sampled as one batch.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.robots.control.actions import Continuity, SequenceRequest, sample_sequences
from fewstep.robots.control.arguments import check_seconds as seconds_of
from fewstep.robots.control.arguments import is_number
from fewstep.robots.control.chunk import Float32
from fewstep.runtime.sampling.sampler import Sampler


@dataclass(frozen=True)
class SequenceJob:
    """A sequence to sample. After `deadline` seconds the sample is what the network predicts at that step."""

    sampler: Sampler
    plan: Plan
    request: SequenceRequest
    continuity: Continuity
    deadline: float


@dataclass(frozen=True)
class SequenceResult:
    """The outcome of a job: actions [n, ...], or the `failure` in their place; `seconds` since its start."""

    actions: Float32 | None
    steps: int
    seconds: float
    failure: str | None = None


class Running(Protocol):
    """A job that was started."""

    def done(self) -> bool:
        """True where the job has ended; returns at once."""

    def result(self) -> SequenceResult:
        """The outcome; waits for the end of the job."""


class Clock(Protocol):
    """The source of time, and the worker that samples."""

    def now(self) -> float:
        """Seconds since some fixed moment."""

    def wait(self, until: float) -> None:
        """Return at this moment, or at once if it is past."""

    def start(self, job: SequenceJob) -> Running:
        """Begin a job. Each caller runs one at a time."""

    def close(self) -> None:
        """Wait for the jobs that run."""


def sample_jobs(jobs: Sequence[SequenceJob], now: Callable[[], float]) -> list[SequenceResult]:
    """The results of jobs that differ in their requests alone, sampled as one batch.

    No failure of a job leaves this function: it would end the control loop of a moving robot.
    """
    first, began = jobs[0], now()
    requests = [job.request for job in jobs]
    try:
        sequences, steps = sample_sequences(
            first.sampler, first.plan, requests, first.continuity, lambda: now() - began >= first.deadline
        )
    except Exception as error:
        if len(jobs) > 1:  # one of them need not fail the others
            return [result for job in jobs for result in sample_jobs([job], now)]
        failure = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return [SequenceResult(None, 0, now() - began, failure)]
    return [SequenceResult(actions, steps, now() - began) for actions in sequences]


class WallClock:
    """The machine's time; jobs run in one thread."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="policy")

    def now(self) -> float:
        return time.perf_counter()

    def wait(self, until: float) -> None:
        time.sleep(max(0.0, until - time.perf_counter()))

    def start(self, job: SequenceJob) -> Future[SequenceResult]:
        return self._worker.submit(lambda: sample_jobs([job], self.now)[0])

    def close(self) -> None:
        self._worker.shutdown(wait=True)


class VirtualClock:
    """Time that `advance` and `wait` move. A job takes `delay` seconds, and those that `spend` adds while it runs. The
    first sequence of an episode takes none of the delay: a robot stands still until that sequence exists. No deadline
    cuts the delay."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = seconds_of("delay", delay)
        self._now = 0.0
        self._spent = 0.0
        self._queue: list[VirtualRun] = []

    def now(self) -> float:
        return self._now + self._spent

    def advance(self, seconds: float) -> None:
        """Let time pass between two ticks; a negative number sets the clock back."""
        if not is_number(seconds) or not math.isfinite(seconds):
            raise UserError(f"{seconds!r} seconds to advance", "give a finite number")
        self._now += seconds

    def wait(self, until: float) -> None:
        self.advance(max(0.0, until - self._now))

    def spend(self, seconds: float) -> None:
        """Let time pass within a job, for a network that pretends to be slow."""
        self._spent += seconds

    def start(self, job: SequenceJob) -> "VirtualRun":
        run = VirtualRun(self, job, self._now)
        self._queue.append(run)
        return run

    def close(self) -> None:
        self.run_jobs()

    def run_jobs(self) -> None:
        """Run the jobs that were started, in batches that share sampler, plan and continuity."""
        queue, self._queue = self._queue, []
        while queue:
            first = queue[0].job
            alike = [run for run in queue if _can_share_batch(run.job, first)]
            queue = [run for run in queue if not _can_share_batch(run.job, first)]
            for run, result in zip(alike, sample_jobs([run.job for run in alike], self.now), strict=True):
                delay = 0.0 if run.job.request.former is None else self.delay
                run.outcome = replace(result, seconds=result.seconds + delay)
            self._spent = 0.0


def check_clock(clock: Clock | None) -> Clock:
    """The clock itself; a WallClock for None."""
    if clock is None:
        return WallClock()
    if not all(callable(getattr(clock, name, None)) for name in ("now", "wait", "start", "close")):
        raise UserError(f"clock {clock!r} is none", "give WallClock(), VirtualClock(delay=SECONDS), or leave it out")
    return clock


def _can_share_batch(one: SequenceJob, other: SequenceJob) -> bool:
    same = one.sampler is other.sampler and one.plan == other.plan
    return same and (one.continuity, one.deadline) == (other.continuity, other.deadline)


@dataclass
class VirtualRun:
    """A job under the virtual clock."""

    clock: VirtualClock
    job: SequenceJob
    began: float
    outcome: SequenceResult | None = None

    def done(self) -> bool:
        return self.clock.now() >= self.began + self.result().seconds - 1e-9

    def result(self) -> SequenceResult:
        if self.outcome is None:
            self.clock.run_jobs()
        assert self.outcome is not None
        return self.outcome
