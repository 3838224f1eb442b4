"""Find the fastest assignment of precisions within a quality bound, and make the graphs that deploy it.

Greedy first: operations x groups, ranked by what they win for their time, are taken in growing numbers, and every
number is run closed loop on the deployed graphs, float32 itself too. Then local: from the point that is picked,
operations are put back to int8 one by one, the dearest first, as long as the bound holds. What is picked is timed with
its own graphs, and judged on seeds that the search did not use, before the bound counts as met. For a speed the judging
seeds choose nothing. For a quality the first choice that passes on them is taken: its mean there is a little too high.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.lowering.quantize import LoweredBody
from fewstep.calibration.precision.bound import Bound
from fewstep.calibration.precision.search import (
    Choice,
    JudgedQuality,
    Point,
    choose,
    frontier,
    in_runs,
    pick,
    prefixes,
    ranked,
    step_time,
)
from fewstep.calibration.precision.search_cache import SearchCache, kept_of, key
from fewstep.calibration.precision.search_job import Ask, runs_here
from fewstep.calibration.precision.sensitivity import Sensitivity, measure, slowdown
from fewstep.calibration.precision.variants import Variants
from fewstep.measure.rollouts.closed_loop import Course
from fewstep.plans.errors import UserError
from fewstep.runtime.progress import SILENT, Progress

MOST_GRAPHS = 3  # of a body: each is loaded


@dataclass(frozen=True)
class SearchResult:
    """The point that is deployed, the frontier of all that was tried, and what was measured of each operation.

    The deployed point is not on the frontier where one that beats it there missed the bound when it was judged. Its
    time is measured, as are those of all int8 and of float32; others may be estimates. It is judged, and so is all
    int8: `int8`. `graphs` are (first group that the graph no longer serves, graph), in the order of groups.
    """

    point: Point
    frontier: tuple[Point, ...]
    sensitivity: Sensitivity
    graphs: tuple[tuple[int, LoweredBody], ...]
    int8: JudgedQuality

    @property
    def is_float(self) -> bool:
        """Whether what is deployed is float32 itself, at every step."""
        return _is_float(self.point.choice, self.sensitivity)


@dataclass(frozen=True)
class Search:
    """What every part of a search works on: `course` has the seeds that search, `judges` have others. A body may have
    `most_graphs` graphs."""

    variants: Variants
    course: Course
    judges: tuple[Course, ...]
    measured: Sensitivity
    kept: SearchCache
    most_graphs: int = MOST_GRAPHS
    progress: Progress = SILENT

    def names(self, floats: frozenset[int]) -> list[str]:
        """The operations of these numbers."""
        return [self.measured.operations[op] for op in floats]

    def united(self, choice: Choice) -> Choice:
        """The choice with as few graphs as a body may have."""
        return in_runs(choice, self.measured.costs, self.course.shares, self.most_graphs)


def _is_float(choice: Choice, measured: Sensitivity) -> bool:
    return all(len(floats) == len(measured.operations) for floats in choice)


def refine(
    variants: Variants,
    course: Course,
    judges: tuple[Course, ...],
    bound: Bound,
    ask: Ask | None = None,
    most_graphs: int = MOST_GRAPHS,
    threads: int = 0,
    progress: Progress = SILENT,
) -> SearchResult:
    """Measure and search on the seeds of `course`, judge on those of `judges`, and lower. UserError if no assignment
    reaches the bound. Choices run on so many `threads` (0: one for each core), whoever runs them.

    Operations and graphs that were timed before on this machine are not timed again, for another point of the frontier.
    Operations and the frontier are asked of `ask`, by default of this process; all else runs here, one after the other.
    """
    kept = kept_of(variants, course, judges, threads)
    here = runs_here(_on(threads, variants), course)  # opens nothing before it is asked
    ask = ask or partial(map, here.qualities)
    measured = measure(variants, course, kept, ask, here.close, progress=progress)
    search = Search(variants, course, judges, measured, kept, most_graphs, progress)
    int8 = judge(search, (frozenset(),) * course.groups)
    points = explore(search, ask)
    del ask, here  # closes the graphs that they have open
    wanted, points = settle(search, points, bound)
    if bound.quality is not None:
        wanted, points = settle_trimmed(search, wanted, points, bound.quality)
    return SearchResult(wanted, tuple(frontier(points)), search.measured, _lowered(search, wanted.choice), int8)


def _on(threads: int, variants: Variants) -> Variants:
    """The variants on so many threads, for runs alone: what is deployed and timed has one for each core."""
    return replace(variants, threads=threads, body=variants.lower(())) if threads else variants


def explore(search: Search, ask: Ask) -> list[Point]:
    """All int8, float32 itself, and growing prefixes of the ranked list, each run closed loop."""
    measured, groups = search.measured, search.course.groups
    pairs = ranked(measured.gains, measured.costs, search.course.shares)
    everything = frozenset(range(len(measured.operations)))
    tried = [search.united(choose(pairs[:size], groups)) for size in prefixes(len(pairs))]
    choices = list(dict.fromkeys(((frozenset(),) * groups, *tried, (everything,) * groups)))
    known = search.kept.figures.choices
    known.setdefault(key(choices[0]), measured.quality)
    lacking = [choice for choice in choices if key(choice) not in known]
    before = len(choices) - len(lacking)
    search.progress("frontier", before, len(choices))
    answers = ask((choice,) for choice in lacking)
    for done, (choice, (quality,)) in enumerate(zip(lacking, answers, strict=True), before + 1):
        known[key(choice)] = quality
        search.kept.save()
        search.progress("frontier", done, len(choices))
    return [run(search, choice) for choice in choices]


def settle(search: Search, points: list[Point], bound: Bound) -> tuple[Point, list[Point]]:
    """The point that fits the bound best by what was measured and judged of it, and all points with what is known then.

    What seems best is timed whole, and then judged; if it misses the bound, or another is faster after all, that comes
    next. UserError if none fits.
    """
    time = None if bound.speed is None else search.measured.float_time / bound.speed
    done = 0
    while (wanted := pick(points, bound.quality, time)) is not None:
        if wanted.time_is_measured and wanted.judged is not None:
            break
        search.progress("timing and judging", done, done + 1)
        if wanted.time_is_measured:
            judge(search, wanted.choice)
        else:
            time_whole(search, wanted)
        points = [run(search, point.choice) for point in points]  # others may share a graph with it
        done += 1
    if done:
        search.progress("timing and judging", done, done)
    if wanted is None:
        raise UserError(_unreached(bound, points, search.measured), "ask for less")
    return wanted, points


def settle_trimmed(search: Search, wanted: Point, points: list[Point], quality: float) -> tuple[Point, list[Point]]:
    """The point that fits the bound best once it is trimmed, and all points with what is known then.

    The seeds that search flatter a point, and those near it by as much. Trimming therefore holds the quality by that
    margin. Float32 is not flattered. Where nothing else fits, the best point that missed the bound gives the margin.
    """
    margin = wanted.quality - wanted.known  # dB by which the seeds that search flatter
    while True:
        trimmed = trim(search, wanted, quality + margin)
        if any(trimmed.choice == point.choice for point in points):
            return wanted, points
        wanted, points = settle(search, [*points, time_whole(search, trimmed)], Bound(quality=quality))
        missed = [point for point in points if point.judged and point.known < quality]
        best = max(missed, key=lambda point: point.quality, default=wanted)
        flattered = best.quality - best.known
        if not _is_float(wanted.choice, search.measured) or flattered <= margin:
            return wanted, points
        margin = flattered


def trim(search: Search, point: Point, quality: float) -> Point:
    """Put operations back to int8, the dearest first, each in all groups that have it in float. An operation stays in
    float where the quality on the seeds that search would not hold, or the estimated time would not fall."""
    course, costs = search.course, search.measured.costs
    parts = sorted(
        {(op, tuple(g for g in range(course.groups) if op in point.choice[g])) for s in point.choice for op in s},
        key=lambda part: -costs[part[0]] * course.shares[list(part[1])].sum(),
    )
    for done, (op, groups) in enumerate(parts, 1):
        fewer = tuple(floats - {op} if g in groups else floats for g, floats in enumerate(point.choice))
        choice = search.united(fewer)
        if _estimate(search, choice) < _estimate(search, point.choice):
            trial = run(search, choice)
            point = trial if trial.quality >= quality else point
        search.progress("refinement", done, len(parts))
    return point


def run(search: Search, choice: Choice) -> Point:
    """A choice with its quality, which is run closed loop unless it is known, its time and its judgement so far."""
    known = search.kept.figures.choices
    if key(choice) not in known:
        known[key(choice)] = float(_qualities(search, choice, [search.course]).mean())
        search.kept.save()
    measured = [_measured_time(search, floats) for floats in choice]
    times = [_summed_time(search, each) if time is None else time for each, time in zip(choice, measured, strict=True)]
    time, judged = step_time(times, search.course.shares), search.kept.figures.judged.get(key(choice))
    return Point(choice, known[key(choice)], time, None not in measured, judged)


def judge(search: Search, choice: Choice) -> JudgedQuality:
    """A choice on the seeds that judge, unless it was judged before."""
    known = search.kept.figures.judged
    if key(choice) not in known:
        values = _qualities(search, choice, search.judges)
        known[key(choice)] = JudgedQuality(float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5)
        search.kept.save()
    return known[key(choice)]


def _qualities(search: Search, choice: Choice, courses: Sequence[Course]) -> NDArray[np.float64]:
    """PSNR of each sample of some courses, in dB."""
    opened = {floats: search.variants.open(search.names(floats)) for floats in dict.fromkeys(choice)}
    return np.concatenate([each.quality(each.run([opened[floats] for floats in choice])) for each in courses])


def time_whole(search: Search, point: Point) -> Point:
    """The point with a measured time: each of its graphs is timed, unless it was before."""
    base = None
    for floats in dict.fromkeys(point.choice):
        if _measured_time(search, floats) is None:
            base = base or search.variants.open()
            other = search.variants.open(search.names(floats))
            search.kept.figures.times[key((floats,))] = slowdown(search.course, base, other)
            search.kept.save()
    return run(search, point.choice)


def _measured_time(search: Search, floats: frozenset[int]) -> float | None:
    """The time of a step with these operations in float, relative to all int8; None if it was not measured."""
    if not floats:
        return 1.0
    if len(floats) == len(search.measured.operations):
        return search.measured.float_time
    return search.kept.figures.times.get(key((floats,)))


def _summed_time(search: Search, floats: frozenset[int]) -> float:
    """The same time, added up from the costs of single operations."""
    return 1 + float(search.measured.costs[sorted(floats)].sum())


def _estimate(search: Search, choice: Choice) -> float:
    """Mean time of a step from single operations alone, so that choices compare whatever was measured."""
    return step_time([_summed_time(search, floats) for floats in choice], search.course.shares)


def _lowered(search: Search, choice: Choice) -> tuple[tuple[int, LoweredBody], ...]:
    """The graph of each run of groups, with the group after its last."""
    graphs = []
    until = 0
    for floats, alike in groupby(choice):
        until += len(list(alike))
        graphs.append((until, search.variants.lower(search.names(floats))))
    return tuple(graphs)


def _unreached(bound: Bound, points: list[Point], measured: Sensitivity) -> str:
    if bound.quality is not None:
        best = max(point.known for point in points)
        return f"no precision map reaches {bound.quality:g} dB: the best found has {best:.1f} dB"
    fastest = measured.float_time / min(point.time for point in points if point.time_is_measured)  # all int8 is
    return f"no precision map is {bound.speed:g} times as fast as float32: the fastest found is {fastest:.2f} times"
