"""What a search found, as it is kept in the bundle: the frontier, the point that is deployed, every measurement."""

from typing import TYPE_CHECKING

import msgspec

from fewstep.calibration.precision.bound import Bound, describe
from fewstep.plans.errors import UserError
from fewstep.plans.spec import Strict

if TYPE_CHECKING:
    from fewstep.calibration.precision.refine import SearchResult
    from fewstep.calibration.precision.search import Point

SCHEMA = 2
READ = (1, SCHEMA)  # 1 has times that were added up from single operations, and no word on it


class FrontierPoint(Strict, frozen=True):
    """A point of the frontier: mean PSNR in dB, time of a step relative to all int8, and for each range group the
    numbers of the operations that stay float. The time is measured, with these graphs, or an estimate from the times of
    single operations.

    The quality has a `standard_error` in dB where it is of the seeds that judge, and was `searched` on those that
    search. Without, it is that of the seeds that search, which flatter what they choose. Where a quality was asked for,
    what is deployed had to pass on the seeds that judge, which flatter it a little too.
    """

    quality: float
    time: float
    in_float: tuple[tuple[int, ...], ...]
    time_is_measured: bool = False
    standard_error: float | None = None
    searched: float | None = None


class PrecisionMap(Strict, frozen=True):
    """One body's search. `gains` [operations][groups] in dB and `costs` [operations] as `Sensitivity` has them. What is
    deployed and all int8 are judged on seeds that the search did not use; files of earlier versions do not have
    that."""

    body: str
    plan: str
    asked: str
    operations: tuple[str, ...]
    gains: tuple[tuple[float, ...], ...]
    costs: tuple[float, ...]
    all_int8: float  # dB
    float_time: float
    frontier: tuple[FrontierPoint, ...]
    deployed: FrontierPoint
    all_int8_error: float | None = None  # standard error, dB


class PrecisionMaps(Strict, frozen=True):
    """The bundle's file."""

    schema: int
    maps: tuple[PrecisionMap, ...]


def record(body: str, plan: str, bound: Bound, refined: "SearchResult") -> PrecisionMap:
    measured = refined.sensitivity
    return PrecisionMap(
        body=body,
        plan=plan,
        asked=describe(bound),
        operations=measured.operations,
        gains=tuple(tuple(map(float, row)) for row in measured.gains),
        costs=tuple(map(float, measured.costs)),
        all_int8=refined.int8.quality,
        float_time=measured.float_time,
        frontier=tuple(map(_reached, refined.frontier)),
        deployed=_reached(refined.point),
        all_int8_error=refined.int8.error,
    )


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


def _reached(point: "Point") -> FrontierPoint:
    in_float = tuple(tuple(sorted(floats)) for floats in point.choice)
    error, searched = (None, None) if point.judged is None else (point.judged.error, point.quality)
    return FrontierPoint(point.known, point.time, in_float, point.time_is_measured, error, searched)
