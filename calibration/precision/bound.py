"""The bound of a precision map: a minimum quality or a minimum speed."""

import re
from dataclasses import dataclass

from fewstep.plans.errors import UserError

MOST = 1000  # upper limit of a bound: dB, or times as fast as float32


@dataclass(frozen=True)
class Bound:
    """A bound: at least `quality` dB (mean PSNR on the judging seeds), or at least `speed` times float32's speed.

    The other of the two is optimized.
    """

    quality: float | None = None
    speed: float | None = None


def parse_bound(quality: str | None, speed: str | None) -> Bound | None:
    """Parse --quality, e.g. "44dB", or --speed, e.g. "1.5x". Return None if neither is given. Raises UserError if both
    are given, or if the text is malformed."""
    if quality is not None and speed is not None:
        raise UserError("--quality and --speed cannot be combined", "give one: the other is optimized")
    if quality is not None:
        return Bound(quality=_parse_number(quality, "db", "quality", "44dB"))
    return None if speed is None else Bound(speed=_parse_number(speed, "x", "speed", "1.5x"))


def describe_bound(bound: Bound) -> str:
    return f"{bound.quality:g}dB" if bound.quality is not None else f"{bound.speed:g}x"


def _parse_number(text: str, unit: str, name: str, example: str) -> float:
    match = re.fullmatch(rf"\s*([0-9]+(?:\.[0-9]+)?)\s*{unit}\s*", text, re.IGNORECASE)
    if match is None or not 0 < float(match[1]) < MOST:
        raise UserError(
            f"{name} {text!r} is not a bound", f"write it with its unit, as {example}: more than 0, less than {MOST}"
        )
    return float(match[1])
