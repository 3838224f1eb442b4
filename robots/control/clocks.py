"""Clocks of the control loop: the wall clock with a sampling thread, and a virtual clock for simulations.

With the virtual clock, results do not depend on the speed of the machine. Runners that share it sample as one batch.
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
    """A sequence to sample. After `deadline` seconds, sampling ends with the clean sequence predicted at that step."""

    sampler: Sampler
    plan: Plan
    request: SequenceRequest
    continuity: Continuity
    deadline: float


@dataclass(frozen=True)
class SequenceResult:
    """The result of a job: actions [n, ...], or a `failure` instead, and the `seconds` since its start."""

    actions: Float32 | None
    steps: int
    seconds: float
    failure: str | None = None


class Running(Protocol):
    """A sampling job that was started and may still be running."""

    def done(self) -> bool:
        """Return whether the job has ended, without waiting."""

    def result(self) -> SequenceResult:
        """Wait for the end of the job, and return its result."""


class Clock(Protocol):
    """The source of time in a control loop, and of the jobs that sample in the background."""

    def now(self) -> float:
        """Return the seconds since a fixed moment."""

    def wait(self, until: float) -> None:
        """Wait until this moment. Return at once if it has passed."""

    def start(self, job: SequenceJob) -> Running:
        """Start a job. Each caller runs one job at a time."""

    def close(self) -> None:
        """Wait for the running jobs."""


def sample_jobs(jobs: Sequence[SequenceJob], now: Callable[[], float]) -> list[SequenceResult]:
    """Run jobs that differ only in their requests as one batch, and return their results.

    This function never raises: an exception would end the control loop of a moving robot.
    """
    first, began = jobs[0], now()
    requests = [job.request for job in jobs]
    try:
        sequences, steps = sample_sequences(
            first.sampler, first.plan, requests, first.continuity, lambda: now() - began >= first.deadline
        )
    except Exception as error:
        if len(jobs) > 1:  # run them separately, so that one failing job does not fail the others
            return [result for job in jobs for result in sample_jobs([job], now)]
        failure = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return [SequenceResult(None, 0, now() - began, failure)]
    return [SequenceResult(actions, steps, now() - began) for actions in sequences]


class WallClock:
    """Real time, from `time.perf_counter`. Jobs run in one worker thread."""

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
    """Simulated time, which `advance` and `wait` move.

    A job takes `delay` seconds, plus the seconds that `spend` adds while it runs. A deadline does not shorten `delay`.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = seconds_of("delay", delay)
        self._now = 0.0
        self._spent = 0.0
        self._queue: list[VirtualRun] = []

    def now(self) -> float:
        return self._now + self._spent

    def advance(self, seconds: float) -> None:
        """Advance the time between two ticks, in seconds. A negative number sets the clock back."""
        if not is_number(seconds) or not math.isfinite(seconds):
            raise UserError(f"the clock cannot advance by {seconds!r} seconds", "give a finite number")
        self._now += seconds

    def wait(self, until: float) -> None:
        self.advance(max(0.0, until - self._now))

    def spend(self, seconds: float) -> None:
        """Advance the time within a job, to simulate a slow network."""
        self._spent += seconds

    def start(self, job: SequenceJob) -> "VirtualRun":
        run = VirtualRun(self, job, self._now)
        self._queue.append(run)
        return run

    def close(self) -> None:
        self.run_jobs()

    def run_jobs(self) -> None:
        """Run the jobs that were started. Jobs with the same sampler, plan, continuity and deadline are run as one
        batch."""
        queue, self._queue = self._queue, []
        while queue:
            first = queue[0].job
            alike = [run for run in queue if _can_share_batch(run.job, first)]
            queue = [run for run in queue if not _can_share_batch(run.job, first)]
            for run, result in zip(alike, sample_jobs([run.job for run in alike], self.now), strict=True):
                run.outcome = replace(result, seconds=result.seconds + self.delay)
            self._spent = 0.0


def check_clock(clock: Clock | None) -> Clock:
    """Check the clock. None becomes a WallClock."""
    if clock is None:
        return WallClock()
    if not all(callable(getattr(clock, name, None)) for name in ("now", "wait", "start", "close")):
        raise UserError(f"{clock!r} is not a clock", "give WallClock(), VirtualClock(delay=SECONDS), or leave it out")
    return clock


def _can_share_batch(one: SequenceJob, other: SequenceJob) -> bool:
    same = one.sampler is other.sampler and one.plan == other.plan
    return same and (one.continuity, one.deadline) == (other.continuity, other.deadline)


@dataclass
class VirtualRun:
    """A job that runs in simulated time, which is read from the virtual clock."""

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
