"""Find the fastest assignment of precisions within a quality bound, and make the graphs that deploy it.

Greedy first: operations x groups, ranked by what they win for their time, are taken in growing numbers, and every
number is run closed loop on the deployed graphs. Then local: from the point that is picked, operations are put back to
int8 one by one, the dearest first, as long as the bound holds.
"""

from dataclasses import dataclass
from itertools import groupby

from fewstep.calibration.lowering.quantize import Lowered
from fewstep.calibration.precision.course import Course
from fewstep.calibration.precision.kept import Kept, kept_of, key
from fewstep.calibration.precision.search import (
    Choice,
    Point,
    choose,
    frontier,
    pick,
    prefixes,
    ranked,
    staged,
    step_time,
)
from fewstep.calibration.precision.sensitivity import Sensitivity, measure
from fewstep.calibration.precision.variants import Variants
from fewstep.graph.session import Session
from fewstep.runtime.errors import UserError
from fewstep.runtime.progress import SILENT, Progress

STAGES = 3  # graphs of a body at most: each is loaded


@dataclass(frozen=True)
class Bound:
    """What is asked for: at least `quality` dB (mean PSNR on the selection seeds), or at least `speed` times float32.

    The other of the two is made as good as it gets.
    """

    quality: float | None = None
    speed: float | None = None


@dataclass(frozen=True)
class Refined:
    """The point that is deployed, the frontier it lies on, and what was measured of each operation.

    `stages` are (first group that the graph no longer serves, graph): the last is the body itself.
    """

    point: Point
    frontier: tuple[Point, ...]
    sensitivity: Sensitivity
    stages: tuple[tuple[int, Lowered], ...]


def refine(
    variants: Variants, course: Course, bound: Bound, stages: int = STAGES, progress: Progress = SILENT
) -> Refined:
    """Measure, search and lower. UserError if no assignment reaches the bound.

    Operations that were timed before on this machine are not timed again, for another point of the frontier.
    """
    kept = kept_of(variants, course)
    measured = measure(variants, course, kept, progress=progress)
    points = explore(variants, course, measured, kept, stages, progress)
    wanted = pick(points, bound.quality, None if bound.speed is None else measured.float_time / bound.speed)
    if wanted is None:
        raise UserError(_unreached(bound, points, measured), "ask for less, or calibrate more trajectories")
    if bound.quality is not None:
        wanted = trim(variants, course, measured, kept, wanted, bound.quality, stages, progress)
    return Refined(wanted, tuple(points), measured, _lowered(variants, measured, wanted.choice))


def explore(
    variants: Variants, course: Course, measured: Sensitivity, kept: Kept, stages: int, progress: Progress = SILENT
) -> list[Point]:
    """The frontier: growing prefixes of the ranked list, each run closed loop."""
    pairs = ranked(measured.gains, measured.costs, course.shares)
    nothing: Choice = (frozenset(),) * course.groups
    points = [Point(nothing, measured.quality, 1.0)]
    sizes = prefixes(len(pairs))
    for done, size in enumerate(sizes, 1):
        choice = staged(choose(pairs[:size], course.groups), measured.costs, course.shares, stages)
        if all(choice != point.choice for point in points):
            points.append(_point(variants, course, measured, kept, choice))
        progress("frontier", done, len(sizes))
    return frontier(points)


def trim(
    variants: Variants,
    course: Course,
    measured: Sensitivity,
    kept: Kept,
    point: Point,
    quality: float,
    stages: int,
    progress: Progress = SILENT,
) -> Point:
    """Put operations back to int8, the dearest first, a whole stage's at a time, while the quality holds."""
    parts = sorted(
        {(op, tuple(g for g in range(course.groups) if op in point.choice[g])) for s in point.choice for op in s},
        key=lambda part: -measured.costs[part[0]] * course.shares[list(part[1])].sum(),
    )
    for done, (op, groups) in enumerate(parts, 1):
        fewer = tuple(floats - {op} if g in groups else floats for g, floats in enumerate(point.choice))
        choice = staged(fewer, measured.costs, course.shares, stages)
        trial = _point(variants, course, measured, kept, choice)
        if trial.quality >= quality and trial.time < point.time:
            point = trial
        progress("refinement", done, len(parts))
    return point


def _point(variants: Variants, course: Course, measured: Sensitivity, kept: Kept, choice: Choice) -> Point:
    """A choice, run, unless it was before."""
    known = kept.figures.choices
    if key(choice) not in known:
        opened: dict[frozenset[int], Session] = {}
        for floats in choice:
            if floats not in opened:
                opened[floats] = variants.open([measured.operations[op] for op in floats])
        states = course.run([opened[floats] for floats in choice])
        known[key(choice)] = float(course.quality(states).mean())
        kept.save()
    return Point(choice, known[key(choice)], step_time(choice, measured.costs, course.shares))


def _lowered(variants: Variants, measured: Sensitivity, choice: Choice) -> tuple[tuple[int, Lowered], ...]:
    """The graph of each run of groups, with the group after its last."""
    stages = []
    until = 0
    for floats, run in groupby(choice):
        until += len(list(run))
        stages.append((until, variants.lower([measured.operations[op] for op in floats])))
    return tuple(stages)


def _unreached(bound: Bound, points: list[Point], measured: Sensitivity) -> str:
    if bound.quality is not None:
        best = max(point.quality for point in points)
        return f"no precision map reaches {bound.quality:g} dB: the best found has {best:.1f} dB"
    return f"no precision map is {bound.speed:g} times as fast as float32: all int8 is {measured.float_time:.2f} times"
