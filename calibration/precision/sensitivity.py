"""What each operation costs in quality, in each range group, and what leaving it in float costs in time.

Quality is measured closed loop on the graph that would be deployed: everything int8, but this operation, in this group,
float. A run is the same up to its group, so only what follows is computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.precision.search import scaled
from fewstep.calibration.precision.search_cache import SearchCache
from fewstep.calibration.precision.search_job import Ask
from fewstep.calibration.precision.variants import Variants
from fewstep.measure.rollouts.closed_loop import Course
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.machine.turns import median_ratio, so_many, take_turns
from fewstep.runtime.progress import SILENT, Progress

Array = NDArray[np.float64]

ROUNDS = 15  # in which two graphs are timed against each other


@dataclass(frozen=True)
class Sensitivity:
    """`gains` [operations, groups]: dB that the operation in float in that group adds. `costs` [operations]: time it
    adds to a step, as a share of the all-int8 step, scaled so that all together add up to float32's. `quality`: all
    int8, mean dB; `float_time`: of a float32 step, measured, as a multiple of the all-int8 one."""

    operations: tuple[str, ...]
    gains: Array
    costs: Array
    quality: float
    float_time: float


def measure(
    variants: Variants,
    course: Course,
    kept: SearchCache,
    ask: Ask,
    close: Callable[[], None],
    rounds: int = ROUNDS,
    progress: Progress = SILENT,
) -> Sensitivity:
    """Measure every operation of a lowering that `kept` does not know. `ask` runs choices; graphs are timed here, while
    nobody runs any, and after `close` has closed what `ask` has open here."""
    operations, known = variants.operations, kept.figures
    if known.overall is None or any(each not in known.gains or each not in known.costs for each in operations):
        quality = _measure_gains(operations, course.groups, kept, ask, progress)
        close()
        known.overall = quality, _measure_costs(variants, course, kept, rounds, progress)
        kept.save()
    gains, costs = ([figures[each] for each in operations] for figures in (known.gains, known.costs))
    quality, float_time = known.overall
    return Sensitivity(operations, np.array(gains), scaled(np.array(costs), float_time), quality, float_time)


def _measure_gains(operations: Sequence[str], groups: int, kept: SearchCache, ask: Ask, progress: Progress) -> float:
    """Quality of all int8; what each operation wins in each group goes to `kept`, one by one."""
    known, int8 = kept.figures.gains, frozenset[int]()
    lacking = [number for number, each in enumerate(operations) if each not in known]
    progress("sensitivity", len(operations) - len(lacking), len(operations))
    alone = (
        tuple(tuple(frozenset({number}) if g == group else int8 for g in range(groups)) for group in range(groups))
        for number in lacking
    )
    answers = ask(chain([((int8,) * groups,)], alone))
    (quality,) = next(answers)
    for left, number in enumerate(lacking, 1 - len(lacking)):
        known[operations[number]] = tuple(each - quality for each in next(answers))
        kept.save()
        progress("sensitivity", len(operations) + left, len(operations))
    return quality


def _measure_costs(variants: Variants, course: Course, kept: SearchCache, rounds: int, progress: Progress) -> float:
    """float32's time; what each operation costs goes to `kept`, one by one. One variant is open at a time beside the
    all-int8 one."""
    operations, known, base = variants.operations, kept.figures.costs, variants.open()
    for done, operation in enumerate(operations):
        progress("times of operations", done, len(operations))
        if operation not in known:
            known[operation] = slowdown(course, base, variants.open([operation]), rounds) - 1
            kept.save()
    progress("times of operations", len(operations), len(operations))
    return slowdown(course, base, variants.open(operations), rounds)


def slowdown(course: Course, base: LoadedGraph, other: LoadedGraph, rounds: int = ROUNDS) -> float:
    """Time of the network's middle step with `other` relative to `base`: the median of ratios of neighbours, so that
    load hits both."""
    feeds = course.fed(course.own_states[len(course.own_states) // 2])

    def seconds(network: LoadedGraph) -> float:
        started = perf_counter()
        network(feeds)
        return perf_counter() - started

    seconds(base), seconds(other)  # the first call allocates
    return median_ratio(take_turns([partial(seconds, base), partial(seconds, other)], so_many(rounds)), 1)
