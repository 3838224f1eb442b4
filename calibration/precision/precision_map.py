"""The precision map of a search in the bundle: the frontier, the point that is deployed, every measurement."""

import msgspec

from fewstep.plans.errors import UserError
from fewstep.plans.spec import Strict

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


def encode_maps(maps: tuple[PrecisionMap, ...]) -> bytes:
    return msgspec.json.encode(PrecisionMaps(SCHEMA, maps))


def decode_maps(data: bytes, source: str = "precision map") -> tuple[PrecisionMap, ...]:
    """The maps of a file. UserError if it is none, or of another version."""
    try:
        found = msgspec.json.decode(data, type=PrecisionMaps)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{source} is no precision map: {error}", "calibrate the bundle again") from None
    if found.schema not in READ:
        raise UserError(f"{source} has schema {found.schema}, this version reads {SCHEMA}", "update fewstep")
    return found.maps
