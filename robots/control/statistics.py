"""Statistics of a control loop: latencies, ticks without a new action, and the smoothness of the actions."""

from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fewstep.robots.control.chunk import Float32
from fewstep.robots.control.tick import Source

LIMITED = "held back by a limit"
WINDOW = 100_000  # the last ticks and calls, from which all figures are computed


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of `count` durations in seconds; NaN without durations."""

    count: int
    p50: float
    p99: float
    p999: float
    most: float

    def __str__(self) -> str:
        """Return the latencies in milliseconds."""
        if not self.count:
            return "none"
        p50, p99, most = (f"{1e3 * seconds:.1f}" for seconds in (self.p50, self.p99, self.most))
        return f"{p50} ms (p50), {p99} ms (p99), {most} ms at most"


@dataclass(frozen=True)
class Start:
    """An action that was executed after a wait of `ticks` ticks without one.

    causes: the ticks of the wait by cause: their source, or LIMITED. place: the number of the action in its sequence.
    age: the ticks since the observation of the sequence. is_bounded: whether a limit of change applied to it.
    is_velocity: whether actions are velocities.
    """

    ticks: int
    causes: Mapping[str, int]
    place: int
    age: int
    is_bounded: bool
    is_velocity: bool


@dataclass(frozen=True)
class LoopStatistics:
    """A summary of all ticks of a runner.

    sampling: durations of the successful calls of the sampler. acting: durations of `act`.
    ticks: all ticks. late, held, stopped, waiting: ticks by the source of their action.
    limited: ticks whose action exceeded a limit.
    overrun: ticks of `run` that began late by more than a tenth of a tick.
    missed: calls that took longer than the deadline. cut: missed calls that ended early, with a prediction.
    dropped: sequences that had no action left when they were finished, began where the robot no longer is, or belong to
        an earlier episode.
    failed: calls without a sequence.
    rejected: observations without usable values.
    jumps: times at which the clock ran backwards.
    starts: actions that were executed after a wait.
    longest_wait: the first action after the longest wait; None without a wait.
    warmed_up: whether `warm_up` has run.
    plans, steps: number of uses of each plan, and of each number of steps.
    seam: the change of the actions where sequences meet, or where one begins at a known pose, divided by the change
        elsewhere; 1 means no seam. NaN while either is missing.
    jerk_contrast: the second difference of the actions where sequences meet, minus the second difference elsewhere, in
        the robot's units.
    """

    sampling: Quantiles
    acting: Quantiles
    ticks: int
    late: int
    held: int
    stopped: int
    waiting: int
    limited: int
    overrun: int
    missed: int
    cut: int
    dropped: int
    failed: int
    rejected: int
    jumps: int
    starts: int
    longest_wait: Start | None
    warmed_up: bool
    plans: Mapping[str, int]
    steps: Mapping[int, int]
    seam: float
    jerk_contrast: float

    def __str__(self) -> str:
        """Return a summary of a few lines, with latencies in milliseconds."""
        planned = self.ticks - self.late - self.held - self.stopped - self.waiting
        plans = ", ".join(f"{count} of {name}" for name, count in self.plans.items()) or "none"
        return (
            f"ticks: {self.ticks}, of them {planned} planned, {self.late} late, {self.held} held, "
            f"{self.stopped} stopped, {self.waiting} waiting; {self.limited} limited, "
            f"{self.overrun} overrun, {self.rejected} rejected, {self.jumps} jumps of the clock\n"
            f"calls: {plans}; {self.missed} missed, {self.cut} cut, {self.dropped} dropped, {self.failed} failed\n"
            f"sampling: {self.sampling}\n"
            f"acting: {self.acting}\n"
            f"seam: {self.seam:.3g}, contrast of jerk: {self.jerk_contrast:.3g}" + self._describe_waits()
        )

    def _describe_waits(self) -> str:
        """Return a line about the longest wait, and what shortens or softens it; empty if none is longer than a tick,
        in which the first sequence of an episode is sampled."""
        start = self.longest_wait
        if start is None or start.ticks <= 1:
            return ""
        one = len(start.causes) == 1
        cause = ", ".join(name if one else f"{count} {name}" for name, count in start.causes.items())
        line = (
            f"\nwaits: {self.starts}; after the longest, of {start.ticks} ticks ({cause}), the robot began with "
            f"action {start.place} of a sequence that was observed {start.age} ticks before"
        )
        if start.is_velocity and start.place:
            line += '; earlier actions were left out, since with control="velocity" they belong to their ticks'
        if LIMITED in start.causes:
            line += "; Action.problem names the limit"
            if one:
                return line
        if "waiting" in start.causes and not self.warmed_up:
            line += "; call warm_up before an episode, since first calls are slow"
        if not start.is_bounded:
            known = "idle" if start.is_velocity else "pose"
            line += f"; Limits(change=...) with Safety({known}=...) bounds such a first action"
        return line


COUNTED = [field.name for field in fields(LoopStatistics) if field.type is int]


class Record:
    """The last WINDOW ticks and calls, from which `summary` computes the statistics."""

    def __init__(self, discrete: Collection[int] = ()) -> None:
        self.sampling: deque[float] = deque(maxlen=WINDOW)
        self.acting: deque[float] = deque(maxlen=WINDOW)
        self.counts: Counter[str] = Counter()
        self.plans: Counter[str] = Counter()
        self.steps: Counter[int] = Counter()
        self.longest_wait: Start | None = None
        self.warmed_up = False
        self.waited: Counter[str] = Counter()  # ticks by cause since the last executed action
        self._discrete = discrete
        self._actions: deque[Float32 | None] = deque(maxlen=WINDOW)  # None between two episodes
        self._joins: deque[bool] = deque(maxlen=WINDOW)

    def record_action(self, action: Float32, joins: bool) -> None:
        """Record an action that was sent. `joins`: whether it is the first action of a sequence that follows another
        sequence, or a wait."""
        self._actions.append(action)
        self._joins.append(joins)

    def record_wait(self, source: Source) -> None:
        """Record a tick at which no action of a sequence was executed. At a planned or late tick, a limit held the
        action back."""
        self.waited[LIMITED if source in ("planned", "late") else source] += 1

    def record_start(self, start: Start, base: Float32 | None) -> None:
        """Record that the next action is the first after a wait. `base`: the pose or the action that it continues."""
        self.counts["starts"] += 1
        if self.longest_wait is None or start.ticks > self.longest_wait.ticks:
            self.longest_wait = start
        if base is not None and self._actions and self._actions[-1] is None:
            self.record_action(base, joins=False)

    def end_episode(self) -> None:
        """Record the end of an episode, so that the next action does not count as a continuation of the previous
        one."""
        self._actions.append(None)
        self._joins.append(False)

    def summary(self) -> LoopStatistics:
        counts = self.counts
        seam, contrast = smoothness(list(self._actions), list(self._joins), self._discrete)
        return LoopStatistics(
            sampling=quantiles(self.sampling),
            acting=quantiles(self.acting),
            plans=dict(self.plans),
            steps=dict(self.steps),
            longest_wait=self.longest_wait,
            warmed_up=self.warmed_up,
            seam=seam,
            jerk_contrast=contrast,
            **{name: counts[name] for name in COUNTED},
        )


def quantiles(seconds: Collection[float]) -> Quantiles:
    if not seconds:
        return Quantiles(0, *[float("nan")] * 4)
    array = np.fromiter(seconds, float)
    return Quantiles(len(array), *np.quantile(array, [0.5, 0.99, 0.999, 1.0]).tolist())


def smoothness(actions: list[Float32 | None], joins: list[bool], discrete: Collection[int] = ()) -> tuple[float, float]:
    """Return (seam, jerk contrast) of actions in temporal order. `actions` has None between two episodes, and `joins`
    says where an action is the first of a sequence.

    The seam is the root mean square, over the elements of an action, of the change where sequences meet relative to the
    change elsewhere. The jerk contrast is the mean norm of second differences where sequences meet, minus their mean
    norm elsewhere (arXiv 2603.11642). Discrete elements are left out.
    """
    changes: dict[bool, list[NDArray[np.float64]]] = {True: [], False: []}
    jerks: dict[bool, list[float]] = {True: [], False: []}
    before: list[NDArray[np.float64]] = []
    for action, join in zip(actions, joins, strict=True):
        if action is None:
            before = []
            continue
        flat = np.delete(np.asarray(action, np.float64).ravel(), list(discrete))
        if before:
            changes[join].append(flat - before[-1])
        if len(before) == 2:
            jerks[join].append(float(np.linalg.norm(flat - 2 * before[1] + before[0])))
        before = [*before[-1:], flat]
    seam = contrast = float("nan")
    if changes[True] and changes[False]:
        at, within = (np.square(changes[where]).mean(axis=0) for where in (True, False))
        if (moves := within > 0).any():
            seam = float(np.sqrt((at[moves] / within[moves]).mean()))
    if jerks[True] and jerks[False]:
        contrast = float(np.mean(jerks[True]) - np.mean(jerks[False]))
    return seam, contrast
