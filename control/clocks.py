"""Two clocks run the same control loop: the wall's, with a thread that samples, and a virtual one, for simulations.

Under the virtual clock nothing depends on the speed of a machine. Runners that share one are sampled as one batch.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from fewstep.control.actions import Continuity, SequenceRequest, sample_sequences
from fewstep.control.arguments import is_number
from fewstep.control.arguments import seconds as seconds_of
from fewstep.control.chunk import Float32
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.sampler import Sampler


@dataclass(frozen=True)
class SequenceJob:
    """A sequence to sample. Its work ends after `deadline` seconds with what is predicted by then."""

    sampler: Sampler
    plan: Plan
    asked: SequenceRequest
    continuity: Continuity
    deadline: float


@dataclass(frozen=True)
class Made:
    """What became of a job: actions [n, ...], or the `failure` that there are none; `seconds` from its start on."""

    actions: Float32 | None
    steps: int
    seconds: float
    failure: str | None = None


class Running(Protocol):
    """A job that was started."""

    def done(self) -> bool:
        """Whether it is made. Does not wait."""

    def result(self) -> Made:
        """What it made. Waits for it."""


class Clock(Protocol):
    """Where time comes from, and who samples meanwhile."""

    def now(self) -> float:
        """Seconds since any moment."""

    def wait(self, until: float) -> None:
        """Let time pass up to a moment; at once if that is over."""

    def start(self, job: SequenceJob) -> Running:
        """Begin a job. One at a time for each caller."""

    def close(self) -> None:
        """Wait for what was started."""


def make(jobs: Sequence[SequenceJob], now: Callable[[], float]) -> list[Made]:
    """Jobs that differ in what is asked alone, as one batch.

    No failure of a job leaves this function: it would end the control loop of a moving robot.
    """
    first, began = jobs[0], now()
    asked = [job.asked for job in jobs]
    try:
        sequences, steps = sample_sequences(
            first.sampler, first.plan, asked, first.continuity, lambda: now() - began >= first.deadline
        )
    except Exception as error:
        if len(jobs) > 1:  # one of them need not fail the others
            return [made for job in jobs for made in make([job], now)]
        failure = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return [Made(None, 0, now() - began, failure)]
    return [Made(actions, steps, now() - began) for actions in sequences]


class WallClock:
    """The time of the machine; jobs run in one thread."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="policy")

    def now(self) -> float:
        return time.perf_counter()

    def wait(self, until: float) -> None:
        time.sleep(max(0.0, until - time.perf_counter()))

    def start(self, job: SequenceJob) -> Future[Made]:
        return self._worker.submit(lambda: make([job], self.now)[0])

    def close(self) -> None:
        self._worker.shutdown(wait=True)


class VirtualClock:
    """Time that passes when it is told to. A job takes `delay` seconds, and those that `spend` adds while it runs;
    the first sequence of an episode takes none of the delay, since a robot stands still until it is there. No deadline
    cuts the delay."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = seconds_of("delay", delay)
        self._now = 0.0
        self._spent = 0.0
        self._queue: list[VirtualRun] = []

    def now(self) -> float:
        return self._now + self._spent

    def advance(self, seconds: float) -> None:
        """Let time pass between two ticks; a clock that is set back gives a negative number."""
        if not is_number(seconds) or not math.isfinite(seconds):
            raise UserError(f"{seconds!r} seconds to advance", "give a finite number")
        self._now += seconds

    def wait(self, until: float) -> None:
        self.advance(max(0.0, until - self._now))

    def spend(self, seconds: float) -> None:
        """Let time pass within a job: for networks that pretend to be slow."""
        self._spent += seconds

    def start(self, job: SequenceJob) -> "VirtualRun":
        run = VirtualRun(self, job, self._now)
        self._queue.append(run)
        return run

    def close(self) -> None:
        self.work()

    def work(self) -> None:
        """Make all that was started, in batches of jobs that share sampler, plan and continuity."""
        queue, self._queue = self._queue, []
        while queue:
            first = queue[0].job
            alike = [run for run in queue if _alike(run.job, first)]
            queue = [run for run in queue if not _alike(run.job, first)]
            for run, made in zip(alike, make([run.job for run in alike], self.now), strict=True):
                delay = 0.0 if run.job.asked.former is None else self.delay
                run.made = Made(made.actions, made.steps, made.seconds + delay, made.failure)
            self._spent = 0.0


def clock_of(given: Clock | None) -> Clock:
    """The clock itself; that of the wall for None."""
    if given is None:
        return WallClock()
    if not all(callable(getattr(given, name, None)) for name in ("now", "wait", "start", "close")):
        raise UserError(f"clock {given!r} is none", "give WallClock(), VirtualClock(delay=SECONDS), or leave it out")
    return given


def _alike(one: SequenceJob, other: SequenceJob) -> bool:
    same = one.sampler is other.sampler and one.plan == other.plan
    return same and (one.continuity, one.deadline) == (other.continuity, other.deadline)


@dataclass
class VirtualRun:
    """A job under the virtual clock."""

    clock: VirtualClock
    job: SequenceJob
    began: float
    made: Made | None = None

    def done(self) -> bool:
        made = self._made()
        return self.clock.now() >= self.began + made.seconds - 1e-9

    def result(self) -> Made:
        return self._made()

    def _made(self) -> Made:
        if self.made is None:
            self.clock.work()
        assert self.made is not None
        return self.made
