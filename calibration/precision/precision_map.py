"""Precision maps in the bundle: the frontier of a search, the deployed point, and the measurements."""

import msgspec

from fewstep.plans.errors import UserError
from fewstep.plans.spec import Strict

SCHEMA = 3
READ = (1, 2, SCHEMA)  # in versions 1 and 2, each range group has its own operations in float


class FrontierPoint(Strict, frozen=True):
    """A point of the frontier: mean PSNR in dB, time of a step relative to the body without a bound, and the indices of
    the operations in float, one list for each range of steps that has a separate set. The time is either measured on
    these graphs or estimated.

    If `standard_error` (dB) is set, the quality was measured on the judging seeds, and `searched` is the quality on the
    search seeds. Otherwise the quality was measured on the search seeds, which are biased in favour of the points
    chosen by them. If the bound is a quality, the deployed point had to pass on the judging seeds, so their mean is
    slightly too high as well.
    """

    quality: float
    time: float
    in_float: tuple[tuple[int, ...], ...]
    time_is_measured: bool = False
    standard_error: float | None = None
    searched: float | None = None


class PrecisionMap(Strict, frozen=True):
    """The result of the precision search for one body. `asked` is the bound on quality or speed, as text. `gains`
    [operations][1] are estimates of the dB that an operation in float adds. `costs` [operations] are estimates of the
    time that it adds, as a fraction of an all-int8 step. `all_int8` is the quality of the body without a bound, in dB
    on the judging seeds. `float_time` is the time of a float32 step relative to that body.

    In files of earlier versions `gains` and `costs` are measured, with `gains` for each range group.
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
    """The content of a bundle's file of precision maps, which lists the operations of each body that stay in float."""

    schema: int
    maps: tuple[PrecisionMap, ...]


def encode_maps(maps: tuple[PrecisionMap, ...]) -> bytes:
    return msgspec.json.encode(PrecisionMaps(SCHEMA, maps))


def decode_maps(data: bytes, source: str = "precision map") -> tuple[PrecisionMap, ...]:
    """Decode the maps of a file. Raises UserError if it is malformed or of another version."""
    try:
        found = msgspec.json.decode(data, type=PrecisionMaps)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{source} is not a precision map: {error}", "calibrate the bundle again") from None
    if found.schema not in READ:
        raise UserError(f"{source} has schema {found.schema}, but this version reads {SCHEMA}", "update fewstep")
    return found.maps
