"""The points at which a denoiser is compared with its graphs: times, batches, sizes of x, values of conditions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np

from fewstep.export.spec import Spec
from fewstep.export.verification.edges import ConditionEdge, edges
from fewstep.graph.graph import TIME, TO, Array, X
from fewstep.plans.grids import trailing
from fewstep.plans.schedule import NoiseSchedule
from fewstep.runtime.bundle.conditions import random_range
from fewstep.runtime.bundle.manifest import Condition, Description
from fewstep.runtime.kinds.kind import FreeAxis
from fewstep.runtime.kinds.positions import time_shape
from fewstep.runtime.kinds.sizes import apply_sizes, default_sizes

VISIT_LIMIT = 4  # multiple of the default's elements; verifying larger shapes would take too long
TIMES = 3  # noise levels, from pure noise towards the data
BATCHES = (1, 3, 4)
SIZED_BATCH = 2  # batch of x in sizes other than the default
QUICK_BATCH = 2  # samples of a quick verification, of pure noise and at the cleanest time

Scope = Literal["full", "quick"]


@dataclass(frozen=True)
class ComparisonPoint:
    """Inputs of one comparison, by graph input name. `sizes` are the free sizes of x. `edge` names a condition's value
    at an edge of its domain, such as "mask all 0"."""

    time: float
    feeds: Mapping[str, Array]
    sizes: Mapping[str, int]
    edge: str = ""

    @property
    def batch(self) -> int:
        return len(self.feeds[X])

    def __str__(self) -> str:
        sizes = "".join(f", {name} {size}" for name, size in self.sizes.items())
        return f"time {self.time:g}, batch {self.batch}{sizes}{self.edge and ', '}{self.edge}"


def comparison_points(spec: Spec, scope: Scope = "full") -> Iterator[ComparisonPoint]:
    """Yield each batch size at each time, single samples first; then each other size of x, at one time. Conditions
    cycle through their values, including the null value. After the first single samples come samples with one condition
    at an edge of its domain (`edges`).

    quick: the edges, a batch of one sample of pure noise and one at the cleanest time, and the first other size.
    """
    schedule = NoiseSchedule(spec.schedule)
    times = [time.network for time in trailing(schedule, TIMES)[:-1]]
    default, *others = sizes_to_verify(spec)
    if scope == "quick":
        chosen, others = [(times[0], QUICK_BATCH)], others[:1]
    else:
        chosen = [(time, batch) for batch, time in product(BATCHES, times)]
    visited = [(time, batch, default) for time, batch in chosen]
    visited += [(times[number % len(times)], SIZED_BATCH, sizes) for number, sizes in enumerate(others)]
    usual = []
    for number, (time, batch, sizes) in enumerate(visited, scope == "quick"):
        cleaner = [*times[times.index(time) + 1 :], schedule.cleanest.network]
        usual.append(ComparisonPoint(time, _feeds(apply_sizes(spec, sizes), time, cleaner, batch, number), sizes))
    if scope == "quick":
        feeds, ends = mix_times(usual[0], (times[0], times[-1])), [*times[1:], schedule.cleanest.network]
        end_times = {} if spec.to is None else {TO: np.array([ends[0], ends[-1]], np.float32)}
        usual[0] = replace(usual[0], feeds=feeds | end_times)
    singles = sum(batch == 1 for _, batch in chosen)
    yield from usual[:singles]
    unseen = [edge for condition in spec.conditions for edge in edges(condition) if not _is_seen(edge, usual)]
    for number, edge in enumerate(unseen):
        time = times[number % len(times)]
        cleaner = [*times[times.index(time) + 1 :], schedule.cleanest.network]
        # an even number, so that the other conditions are not null: a null text could hide errors of its mask
        feeds = _feeds(apply_sizes(spec, default), time, cleaner, 1, 2 * (len(visited) + number))
        yield ComparisonPoint(time, {**feeds, edge.condition.input: edge.value[None]}, default, edge.text)
    yield from usual[singles:]


def mix_times(point: ComparisonPoint, times: Sequence[float]) -> dict[str, Array]:
    """Return the feeds of a point with a different time for each sample."""
    mixed = np.resize(np.asarray(times, np.float32), point.batch)
    if point.feeds[TIME].ndim > 1:  # a time per position
        mixed = np.concatenate([mixed[:, None], point.feeds[TIME][:, 1:]], axis=1)
    return {**point.feeds, TIME: mixed}


def feeds_of_other_values(spec: Spec, batch: int) -> dict[str, Array]:
    """Return random inputs of a batch at the cleanest time, for a second call of a module."""
    schedule = NoiseSchedule(spec.schedule)
    time = schedule.cleanest.network
    return _feeds(spec, time, [time], batch, batch)


def _is_seen(edge: ConditionEdge, points: Sequence[ComparisonPoint]) -> bool:
    """Return True if a scalar condition has the value of `edge` at one of the points, and the value is not its null
    value."""
    if edge.condition.shape or edge.value == edge.condition.null:
        return False
    return any(edge.value in point.feeds[edge.condition.input] for point in points)


def _feeds(spec: Spec, time: float, cleaner: Sequence[float], batch: int, number: int) -> dict[str, Array]:
    """Return feeds in the order of the network's arguments."""
    rng = np.random.default_rng(number)
    feeds: dict[str, Array] = {
        X: spec.space.random_x((batch, *spec.input_shape), rng),
        TIME: _times(spec, batch, time, rng),
    }
    if spec.to is not None:  # the end times: every cleaner time in turn
        feeds[TO] = np.resize(np.array(cleaner, np.float32), batch)
    for condition in spec.conditions:
        feeds[condition.input] = _values(condition, batch, number, rng)
    for name, carried in spec.carried_inputs.items():
        feeds[name] = np.zeros((batch, *carried.shape), carried.dtype)
    return feeds


def _times(spec: Spec, batch: int, time: float, rng: np.random.Generator) -> Array:
    """Return the time of each sample, [batch]. If the network takes a time per position, the first position has `time`,
    and the others have random times."""
    if spec.positions is None:
        return np.full(batch, time, np.float32)
    schedule = NoiseSchedule(spec.schedule)
    ends = schedule.cleanest.network, schedule.noisiest.network
    times = rng.uniform(*ends, (batch, *time_shape(spec)))
    times[:, 0] = time
    return np.asarray(np.round(times) if schedule.timesteps else times, np.float32)


def _values(condition: Condition, batch: int, number: int, rng: np.random.Generator) -> Array:
    """Return values [batch, *shape] of a condition for a comparison: successive integers, or random values of other
    types. At every other point, the last sample has the null value."""
    shape = (batch, *condition.shape)
    drawn: tuple[Any, Any] = random_range(condition) or (-1.0, 1.0)
    low, high = drawn
    in_turn = np.arange(math.prod(shape)).reshape(shape) + number
    kind = np.dtype(condition.dtype).kind
    if kind == "b":
        values: Array = in_turn % 2
    elif kind in "iu":
        values = low + in_turn % (high - low + 1)
    else:
        values = np.asarray(rng.uniform(low, high, shape))
    if condition.null is not None and number % 2:
        values[-1] = condition.null
    return values.astype(condition.dtype)


def sizes_to_verify(takes: Description, limit: int = VISIT_LIMIT) -> list[dict[str, int]]:
    """Return the choices of sizes at which a graph is verified: the default, the smallest, a mixed one if there are
    several sizes, the largest, and one near the default at which no size is a multiple of twice its multiple: a module
    may do other operations there, such as padding. The others are left out if they have more than `limit` times the
    default's elements."""
    usual = default_sizes(takes.x_shape, takes.sizes)
    least, greatest = ({size.name: getattr(size, end) for size in takes.sizes} for end in ("low", "high"))
    mixed = {
        size.name: greatest[size.name] if number % 2 else least[size.name] for number, size in enumerate(takes.sizes)
    }
    odd = {size.name: find_odd_multiple(size, usual[size.name], size.multiple) or size.low for size in takes.sizes}
    choices = [usual]
    for choice in (least, mixed, greatest):
        if choice not in choices and math.prod(choice.values()) <= limit * math.prod(usual.values()):
            choices.append(choice)
    return choices + [odd] * (odd not in choices)


def find_odd_multiple(size: FreeAxis, usual: int, multiple: int) -> int | None:
    """Return the multiple in the range of a size that is nearest to the default, but not the default, and if possible
    at most twice as large and no multiple of twice the number, or else of three times the number. None if there is
    none."""
    count = range(-(-size.low // multiple), size.high // multiple + 1)
    values = [number * multiple for number in count if number * multiple != usual]
    return min(
        values,
        key=lambda value: (
            value > 2 * usual,
            *(math.gcd(value // multiple, factor) for factor in (2, 3)),
            abs(value - usual),
        ),
        default=None,
    )
