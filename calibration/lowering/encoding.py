"""Activations in 8 or 16 bits: real = scale * (integer - zero_point). All channels share one scale per lambda group;
the graph may have multiplied them before (`channel_equalization.py`)."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.ranges.table import LEVELS, Range, Ranges

LEAST_FINER = 1.25
HEADROOM = 1.25  # factor of the range of 16-bit codes, since other samples may exceed it; costs 2 dB of 80


@dataclass(frozen=True)
class Encoding:
    """The quantization parameters of one tensor: `scales` float64 [groups], or [1] if all range groups share one; and
    one zero point for all groups.

    multipliers: [channels], the number by which the graph multiplies each channel before quantization; None if it
        multiplies none.
    """

    scales: NDArray[np.float64]
    zero_point: np.integer[Any]
    multipliers: NDArray[np.float64] | None = None


def asymmetric_uint8(ranges: Ranges, grouped: bool) -> Encoding:
    """Return the parameters of a uint8 quantization that covers the whole of each range.

    The zero point is chosen so that the groups' scales are finest (sum of logarithms). It is a constant, because
    engines choose kernels by it; scales may change at run time.
    """
    low, high = _ends(ranges.per_group if grouped else (ranges.pooled,))
    candidates = np.arange(LEVELS + 1, dtype=np.float64)[:, None]  # [256, 1] against [groups]
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.where(low < 0, -low / candidates, 0.0)  # with zero point 0 there are no codes for negative values
        above = np.where(high > 0, high / (LEVELS - candidates), 0.0)
    needed = np.maximum(below, above)  # [256, groups]
    best = int(np.argmin(np.log(needed).sum(axis=1)))
    return Encoding(needed[best], np.uint8(best))


def asymmetric_int8(ranges: Ranges, grouped: bool) -> Encoding:
    """Return `asymmetric_uint8` shifted by 128: the same scales and the same real values."""
    code = asymmetric_uint8(ranges, grouped)
    return replace(code, zero_point=np.int8(int(code.zero_point) - 128))


def asymmetric_uint16(ranges: Ranges, grouped: bool, headroom: float = HEADROOM) -> Encoding:
    """Return the parameters of a uint16 quantization that covers the range of all groups times `headroom`. 16 bits do
    not need per-group scales."""
    low, high, levels = headroom * ranges.pooled.low, headroom * ranges.pooled.high, 2**16 - 1
    scale = (high - low) / levels
    return Encoding(np.array([scale]), np.uint16(round(-low / scale)))


def symmetric_int16(code: Encoding) -> Encoding:
    """Convert the parameters of a uint16 quantization to those of a symmetric int16 quantization (zero point 0) that
    covers the same values."""
    zero = int(code.zero_point)
    reach = code.scales * max(zero, 2**16 - 1 - zero)
    return replace(code, scales=reach / (2**15 - 1), zero_point=np.int16(0))


def symmetric_int8(ranges: Ranges, grouped: bool) -> Encoding:
    """Return the parameters of an int8 quantization around zero: [-amax, amax] maps to [-127, 127]."""
    amax = np.array(ranges.per_group_symmetric if grouped else [ranges.pooled_symmetric])
    return Encoding(amax / 127, np.int8(0))


def choose_int8(ranges: Ranges, grouped: bool) -> Encoding:
    """Return `asymmetric_int8` if its scales are finer by LEAST_FINER in the geometric mean, else `symmetric_int8`.
    Asymmetric scales are finer after a SiLU, whose outputs are hardly negative.

    This is the code of targets for which a zero point costs additional operations. Sums of residuals are centred on
    zero, and would gain nothing from one.
    """
    moved, symmetric = asymmetric_int8(ranges, grouped), symmetric_int8(ranges, grouped)
    gain = np.exp(np.log(symmetric.scales / moved.scales).mean())
    return moved if gain >= LEAST_FINER else symmetric


def _ends(ranges: tuple[Range, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([r.low for r in ranges]), np.array([r.high for r in ranges])


# Names of the tensors that a lowering adds for a tensor. No tensor of an exported graph contains parentheses.


def scale_name(tensor: str) -> str:
    return f"scale({tensor})"


def zero_point_name(tensor: str) -> str:
    return f"zero_point({tensor})"


def integer_name(tensor: str) -> str:
    return f"int8({tensor})"


def name_after_rounding(tensor: str) -> str:
    """Return the name of a tensor after quantization and dequantization."""
    return f"rounded({tensor})"


def eight_bit_name(tensor: str) -> str:
    """Return the name of a 16-bit tensor's 8-bit version, which operations with weights read."""
    return f"eight({tensor})"


def factor_name(tensor: str) -> str:
    return f"factor({tensor})"


def name_after_equalization(tensor: str) -> str:
    """Return the name of a tensor after its channels were multiplied."""
    return f"even({tensor})"


def product_name(op: str) -> str:
    """Return the name of an operation's output before it is multiplied by the factor of its group."""
    return f"product({op})"
