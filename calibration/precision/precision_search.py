"""The search for the number of operations in float that meets a quality or a speed.

The search continues along the ranking that also determines the body without a bound. Each operation that moves to float
raises the quality and lowers the speed, so few bodies have to be made to find where the bound is crossed. They run in
closed loop on the search seeds, as they would be deployed. A quality counts as reached only if the body also reaches it
on other seeds, the judging seeds. The first body that passes there is taken, so its mean on the judging seeds is
slightly too high. For a bound on speed, the judging seeds select nothing.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, log2
from time import perf_counter

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.policy import POLICY, CalibrationPolicy
from fewstep.calibration.precision.bound import Bound, describe_bound
from fewstep.calibration.precision.precision_map import FrontierPoint, PrecisionMap
from fewstep.calibration.precision.recipe import Recipe, open_graphs
from fewstep.measure.rollouts.end_quality import EndQuality, end_quality
from fewstep.measure.rollouts.metrics import CEILING
from fewstep.measure.rollouts.recorded_run import RecordedRun
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.platforms import body_name
from fewstep.runtime.machine.turns import median_ratio, stop_after_rounds, take_turns
from fewstep.runtime.progress import SILENT, Progress

LOG = logging.getLogger("fewstep")
Array = NDArray[np.float64]
SMALLEST = float(np.finfo(float).tiny)
LEAST_SHARE = 1e-9  # lower limit of the share of the error that remains with an operation in float: 90 dB


@dataclass(frozen=True)
class Point:
    """A body with the first `count` operations of a ranking in float.

    quality: mean PSNR in dB on the search seeds.
    time: time of a step relative to the body without a bound.
    time_is_measured: False if the time is estimated from multiply-accumulates.
    """

    count: int
    quality: float
    time: float
    time_is_measured: bool = False


@dataclass(frozen=True)
class SearchResult:
    """The result of a search: the `recipe` of the deployed body, its `point`, and its quality `judged` on seeds that
    the search did not use. On the seeds of the search, the mean quality of the selected body is biased slightly
    upwards, because it was selected for passing there.

    `points` are all bodies tried, by their number of operations in float. `unbounded` is the judged quality of the body
    that a search without a bound on quality or speed would deploy, and `unbounded_count` its number of operations in
    float. `float_time` is the time of a float32 step relative to that body.
    """

    recipe: Recipe
    point: Point
    judged: EndQuality
    points: tuple[Point, ...]
    unbounded: EndQuality
    unbounded_count: int
    float_time: float


class Search:
    """Measures the quality and the time of bodies along one ranking, each only once. A body is identified by its number
    of operations in float: `default` without a bound, `all` for float32. If the target's graphs cannot be timed on this
    machine, times are estimates."""

    def __init__(
        self,
        recipe: Recipe,
        recorded_run: RecordedRun,
        judges: tuple[RecordedRun, ...],
        is_timed: bool,
        progress: Progress,
        policy: CalibrationPolicy = POLICY,
    ) -> None:
        assert recipe.ranking is not None
        self.recipe = recipe.with_float_operations(recipe.in_float)
        self.recorded_run, self.judges, self.is_timed, self.progress = recorded_run, judges, is_timed, progress
        self.ranking, self.default, self.all = recipe.ranking, len(recipe.in_float), len(recipe.ranking.order)
        self.policy = policy
        self._qualities, self._times = {self.all: CEILING}, {self.default: 1.0}
        self._judged = dict[int, EndQuality]()

    def make_recipe(self, count: int) -> Recipe:
        """Return the recipe of the body with `count` operations in float."""
        return (
            self.recipe
            if count == self.default
            else self.recipe.with_float_operations(self.ranking.first_operations(count))
        )

    def measure_quality(self, count: int) -> float:
        """Return the mean PSNR in dB of a body on the search seeds."""
        if count not in self._qualities:
            self.progress("bodies", len(self._qualities) - 1, len(self._qualities))
            self._qualities[count] = float(self._run(count, self.recorded_run).mean())
        return self._qualities[count]

    def judge(self, count: int) -> EndQuality:
        """Return the quality of the body with `count` operations in float, on seeds that the search does not use."""
        if count not in self._judged:
            values = self._run(count, *self.judges)
            self._judged[count] = end_quality(values, "float32")
        return self._judged[count]

    def _run(self, count: int, *recorded_runs: RecordedRun) -> Array:
        """Return the PSNR in dB of each sample of some recorded runs, for the body with `count` operations in float."""
        body = self.make_recipe(count)
        graphs = open_graphs(body.lower_unchecked(), body.target)
        return np.concatenate([run.decibels(run.run(graphs)) for run in recorded_runs])

    def measure_time(self, count: int) -> float:
        """Return the time of a step relative to the body without a bound, measured if possible, else estimated."""
        if self.is_timed and count not in self._times:
            self._times[count] = measure_slowdown(
                self.recorded_run, self._open_body(self.default), self._open_body(count), self.policy.timing_rounds
            )
        return self._times.get(count, float(self.time_estimates[count]))

    def _open_body(self, count: int) -> LoadedGraph:
        """Open a session for the body with `count` operations in float, as it is deployed, except that its threads do
        not spin, since two bodies are open at once."""
        recipe = self.make_recipe(count)
        ((_, graph),) = recipe.lower_unchecked()
        return recipe.target.runs(graph)

    @property
    def time_estimates(self) -> Array:
        """Times [1 + operations] estimated from multiply-accumulates, scaled to the time of float32 if that is
        known."""
        added = (self.ranking.time - self.ranking.time[self.default]) / (1 + self.ranking.time[self.default])
        known = self._times.get(self.all)
        return np.asarray(1 + (added if known is None or not added[-1] else added * (known - 1) / added[-1]))

    @property
    def points(self) -> tuple[Point, ...]:
        """All bodies that were run so far, sorted by their number of operations in float."""
        times, known = self.time_estimates, self._times
        return tuple(
            Point(count, quality, known.get(count, float(times[count])), count in known)
            for count, quality in sorted(self._qualities.items())
        )


def search_precision(
    recipe: Recipe,
    recorded_run: RecordedRun,
    judges: tuple[RecordedRun, ...],
    bound: Bound,
    is_timed: bool,
    progress: Progress = SILENT,
    policy: CalibrationPolicy = POLICY,
) -> SearchResult:
    """Search for the body with the fewest operations in float that meets a bound on quality or on speed, on the seeds
    of `recorded_run`. The result is judged on the seeds of `judges`. If a body with more operations in float is not
    slower, it is returned instead.

    Raises UserError if no body meets the bound.
    """
    search = Search(recipe, recorded_run, judges, is_timed, progress, policy)
    float_time = search.measure_time(search.all)
    count = (
        _count_for_speed(search, float_time, bound.speed) if bound.speed else _count_for_quality(search, bound.quality)
    )
    for other in (search.default, search.all):
        if other > count and search.measure_time(count) >= search.measure_time(
            other
        ):  # the other is not slower, and closer to float32
            count = other
    search.measure_quality(count), search.measure_quality(search.default)
    point = next(point for point in search.points if point.count == count)
    judged, unbounded = search.judge(count), search.judge(search.default)
    chosen = search.make_recipe(count)
    if chosen.is_float:
        LOG.warning(
            "%s runs nothing in int8: float32 itself meets %s best of all bodies tried (the body without a bound"
            " has %.1f dB)",
            *(body_name("int8", recipe.target.name), describe_bound(bound), unbounded.mean),
        )
    return SearchResult(chosen, point, judged, search.points, unbounded, search.default, float_time)


def _count_for_quality(search: Search, quality: float | None) -> int:
    """Return the fewest operations in float that reach a quality in dB, on the search seeds and the judging seeds."""
    assert quality is not None
    if quality > CEILING:
        raise UserError(f"no body reaches {quality:g} dB: float32 itself has {CEILING:g}", "choose a lower quality")
    wanted, least = quality, search.ranking.slower_count - 1
    while True:
        count = find_crossing(search.measure_quality, search.ranking.quality, wanted, least, search.all)
        if count == search.all:
            return count
        judged = search.judge(count).mean
        if judged >= quality:
            return count
        flattered = search.measure_quality(count) - judged  # bias of the search seeds in dB
        wanted, least = max(quality + flattered, wanted), count


def _count_for_speed(search: Search, float_time: float, speed: float) -> int:
    """Return the most operations in float with which a step is `speed` times as fast as float32's."""
    most = float_time / speed * (1 + search.policy.time_tolerance)
    if float_time <= most:
        return search.all
    least = search.ranking.slower_count
    if search.measure_time(least) > most:
        fastest = float_time / search.measure_time(least)
        raise UserError(
            f"no body is {speed:g} times as fast as float32: the fastest found is {fastest:.2f} times",
            "choose a lower speed",
        )
    return find_crossing(search.measure_time, search.time_estimates, most, least, search.all) - 1


def find_crossing(value: Callable[[int], float], estimates: Array, wanted: float, low: int, high: int) -> int:
    """Return the least number above `low` whose value reaches `wanted`. The value at `high` is known to reach it.

    Values increase. `estimates` [1 + high] are estimated values. The first evaluation is where they cross `wanted`;
    later ones shift the estimates by the last value's deviation. Every other evaluation bisects the interval.
    """
    shift, looks = 0.0, 0
    while high - low > 1:
        reached = np.flatnonzero(estimates[low + 1 : high] + shift >= wanted)
        near = low + 1 + int(reached[0]) if len(reached) else high - 1
        number = (low + high) // 2 if looks % 2 else near
        found = value(number)
        low, high = (low, number) if found >= wanted else (number, high)
        shift, looks = found - float(estimates[number]), looks + 1
    return high


def measure_slowdown(recorded_run: RecordedRun, base: LoadedGraph, other: LoadedGraph, rounds: int) -> float:
    """Return the time of the network's middle step with `other` relative to `base`. It is the median of ratios of
    adjacent measurements, so that load affects both."""
    calls = recorded_run.body_feeds(recorded_run.float_states[len(recorded_run.float_states) // 2])

    def seconds(graph: LoadedGraph) -> float:
        started = perf_counter()
        for feeds in calls:
            graph(feeds)
        return perf_counter() - started

    seconds(base), seconds(other)  # the first call allocates memory
    return median_ratio(take_turns([partial(seconds, base), partial(seconds, other)], stop_after_rounds(rounds)), 1)


def estimate_evaluations(
    steps: int, operations: int, recorded_runs: int, is_timed: bool, policy: CalibrationPolicy = POLICY
) -> int:
    """Return the approximate number of evaluations of a search, each of all samples of a recorded run. It includes the
    float32 runs on the search seeds and on `recorded_runs` further sets of seeds, the attempts until the bound is met,
    and the comparison of three bodies with float32 on the further seeds."""
    tries = ceil(log2(operations + 1)) + 1
    timed = 2 * (policy.timing_rounds + 1) * 2 if is_timed else 0
    return steps * (1 + recorded_runs + tries + 3 * recorded_runs) + timed


def make_precision_map(body: str, plan: str, bound: Bound, found: SearchResult) -> PrecisionMap:
    """Return the precision map of a search, to be stored in a bundle."""
    ranking = found.recipe.ranking
    assert ranking is not None
    gains, costs = np.empty(len(ranking.order)), np.empty(len(ranking.order))
    errors = -np.diff(ranking.left)
    gains[list(ranking.order)] = -10 * np.log10(np.maximum(1 - errors / max(ranking.left[0], SMALLEST), LEAST_SHARE))
    costs[list(ranking.order)] = np.diff(ranking.time)
    deployed = msgspec.structs.replace(
        _to_frontier_point(found.point, ranking.order),
        quality=found.judged.mean,
        standard_error=found.judged.standard_error,
        searched=found.point.quality,
    )
    others = [
        _to_frontier_point(point, ranking.order) for point in pareto_frontier(found.points) if point != found.point
    ]
    return PrecisionMap(
        body=body,
        plan=plan,
        asked=describe_bound(bound),
        operations=ranking.operations,
        gains=tuple((gain,) for gain in gains.tolist()),
        costs=tuple(costs.tolist()),
        all_int8=found.unbounded.mean,
        float_time=found.float_time,
        frontier=tuple(sorted([*others, deployed], key=lambda point: point.time)),
        deployed=deployed,
        all_int8_error=found.unbounded.standard_error,
    )


def pareto_frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point beats in both time and quality on the search seeds; the fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.time, -each.quality)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best


def _to_frontier_point(point: Point, order: Sequence[int]) -> FrontierPoint:
    return FrontierPoint(point.quality, point.time, (tuple(sorted(order[: point.count])),), point.time_is_measured)
