"""The record of a search in the bundle: the frontier, the point that is deployed, every measurement."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from fewstep.calibration.precision.bound import Bound, describe
from fewstep.plans.errors import UserError
from fewstep.plans.spec import Strict

if TYPE_CHECKING:  # the page of a report reads records, and searches nothing
    from fewstep.calibration.precision.refine import Point, SearchResult

SMALLEST = float(np.finfo(float).tiny)
LEAST_SHARE = 1e-9  # of the errors that an operation in float leaves: 90 dB
SCHEMA = 3
READ = (1, 2, SCHEMA)  # 1 and 2 have range groups, each with operations of its own in float


class FrontierPoint(Strict, frozen=True):
    """A point of the frontier: mean PSNR in dB, time of a step relative to the body without a bound, and the numbers of
    the operations that stay float, for each run of steps that has its own. The time is measured, with these graphs, or
    an estimate.

    The quality has a `standard_error` in dB where it is of the seeds that judge, and was `searched` on those that
    search. Without, it is of the seeds that search, which flatter what they choose. Where a quality was asked for,
    what is deployed had to pass on the seeds that judge, which flatter it a little too.
    """

    quality: float
    time: float
    in_float: tuple[tuple[int, ...], ...]
    time_is_measured: bool = False
    standard_error: float | None = None
    searched: float | None = None


class PrecisionMap(Strict, frozen=True):
    """One body's search. `gains` [operations][1] are foretold: what an operation in float adds, in dB. `costs`
    [operations] are estimates of the time that it adds, as a share of a step all in int8. `all_int8` is the body
    without a bound, in dB on the seeds that judge, and `float_time` the time of a step of float32 relative to it.

    In files of earlier versions `gains` and `costs` are measured, `gains` for each range group.
    """

    body: str
    plan: str
    asked: str
    operations: tuple[str, ...]
    gains: tuple[tuple[float, ...], ...]
    costs: tuple[float, ...]
    all_int8: float
    float_time: float
    frontier: tuple[FrontierPoint, ...]
    deployed: FrontierPoint
    all_int8_error: float | None = None  # standard error, dB


class PrecisionMaps(Strict, frozen=True):
    """The bundle's file."""

    schema: int
    maps: tuple[PrecisionMap, ...]


def record(body: str, plan: str, bound: Bound, found: "SearchResult") -> PrecisionMap:
    ranking = found.variants.ranking
    assert ranking is not None
    gains, costs = np.empty(len(ranking.order)), np.empty(len(ranking.order))
    errors = -np.diff(ranking.left)
    gains[list(ranking.order)] = -10 * np.log10(np.maximum(1 - errors / max(ranking.left[0], SMALLEST), LEAST_SHARE))
    costs[list(ranking.order)] = np.diff(ranking.time)
    deployed = msgspec.structs.replace(
        _reached(found.point, ranking.order),
        quality=found.judged.mean,
        standard_error=found.judged.standard_error,
        searched=found.point.quality,
    )
    others = [_reached(point, ranking.order) for point in frontier(found.points) if point != found.point]
    return PrecisionMap(
        body=body,
        plan=plan,
        asked=describe(bound),
        operations=ranking.operations,
        gains=tuple((gain,) for gain in gains.tolist()),
        costs=tuple(costs.tolist()),
        all_int8=found.without.mean,
        float_time=found.float_time,
        frontier=tuple(sorted([*others, deployed], key=lambda point: point.time)),
        deployed=deployed,
        all_int8_error=found.without.standard_error,
    )


def frontier(points: "Sequence[Point]") -> "list[Point]":
    """Points that no other beats in both quality, on the seeds that search, and time; the fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.time, -each.quality)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best


def encode(maps: tuple[PrecisionMap, ...]) -> bytes:
    return msgspec.json.encode(PrecisionMaps(SCHEMA, maps))


def decode(data: bytes, source: str = "precision map") -> tuple[PrecisionMap, ...]:
    """The maps of a file. UserError if it is none, or of another version."""
    try:
        found = msgspec.json.decode(data, type=PrecisionMaps)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{source} is no precision map: {error}", "calibrate the bundle again") from None
    if found.schema not in READ:
        raise UserError(f"{source} has schema {found.schema}, this version reads {SCHEMA}", "update fewstep")
    return found.maps


def _reached(point: "Point", order: Sequence[int]) -> FrontierPoint:
    return FrontierPoint(point.quality, point.time, (tuple(sorted(order[: point.count])),), point.time_is_measured)
