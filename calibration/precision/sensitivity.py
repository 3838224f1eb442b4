"""What each operation costs in quality, in each range group, and what leaving it in float costs in time.

Quality is measured closed loop on the graph that would be deployed: everything int8, but this operation, in this group,
float. A run is the same up to its group, so only what follows is computed.
"""

from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.precision.closed_loop import Course
from fewstep.calibration.precision.search import scaled
from fewstep.calibration.precision.search_cache import SearchCache
from fewstep.calibration.precision.variants import Variants
from fewstep.runtime.backends import LoadedGraph
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
    variants: Variants, course: Course, kept: SearchCache, rounds: int = ROUNDS, progress: Progress = SILENT
) -> Sensitivity:
    """Measure every operation of a lowering that `kept` does not know."""
    operations, known = variants.operations, kept.figures
    if known.overall is None or any(each not in known.operations for each in operations):
        known.overall = _measure(variants, course, kept, rounds, progress)
        kept.save()
    gains, costs = zip(*(known.operations[each] for each in operations), strict=True)
    quality, float_time = known.overall
    return Sensitivity(operations, np.array(gains), scaled(np.array(costs), float_time), quality, float_time)


def _measure(
    variants: Variants, course: Course, kept: SearchCache, rounds: int, progress: Progress
) -> tuple[float, float]:
    """Quality of all int8, and float32's time; operations go to `kept`, one by one. One variant is open at a time
    beside the all-int8 one."""
    operations, known = variants.operations, kept.figures.operations
    runs = len(operations) * course.groups
    progress("sensitivity", 0, runs)
    base = variants.open()
    along = course.run([base] * course.groups)
    quality = float(course.quality(along).mean())
    for done, operation in enumerate(operations):
        if operation not in known:
            variant = variants.open([operation])
            gains = []
            for group in range(course.groups):
                networks: list[LoadedGraph] = [base] * course.groups
                networks[group] = variant
                gains.append(float(course.quality(course.run(networks, along, group)).mean()) - quality)
                progress("sensitivity", done * course.groups + group, runs)
            known[operation] = tuple(gains), slowdown(course, base, variant, rounds) - 1
            kept.save()
        progress("sensitivity", (done + 1) * course.groups, runs)
    return quality, slowdown(course, base, variants.open(operations), rounds)


def slowdown(course: Course, base: LoadedGraph, other: LoadedGraph, rounds: int = ROUNDS) -> float:
    """Time of the plan's middle step with `other` relative to `base`: the median of ratios of neighbours, so that load
    hits both."""
    state = course.reference[len(course.reference) // 2]

    def seconds(network: LoadedGraph) -> float:
        started = perf_counter()
        course.call(network, state.index, state.u)
        return perf_counter() - started

    seconds(base), seconds(other)  # the first call allocates
    return float(np.median([seconds(other) / seconds(base) for _ in range(rounds)]))
