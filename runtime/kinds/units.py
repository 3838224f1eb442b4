"""Conversion of samples between model range and the units of a bundle's manifest, such as a robot's actions.

sampler.to_units(actions)      radians, metres, ... from model range
sampler.from_units(actions)    model range from units: for `hold`, for `given`
"""

from math import isfinite
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Float32, as_numbers
from fewstep.runtime.kinds.kind import DescriptionProtocol, Kind, format_numbers

EXPORT_WITH_UNITS = "export it with units=Affine(scale, shift) in its spec"


class Affine(Kind, frozen=True):
    """The map from model range to units: value = scale * x + shift, with one pair for each index along an axis of x.

    A scale of 0 marks an index at which the training data were constant. There, x was always `constant` in training.
    """

    FIX: ClassVar = "give Affine(scale, shift) with one number for each place along an axis of x"
    EXPERTS: ClassVar = "without"

    scale: tuple[float, ...]
    shift: tuple[float, ...]
    axis: int = -1  # axis of one sample; negative axes count from the end
    constant: float = 0.0

    def problem(self, of: DescriptionProtocol) -> str | None:
        shape = of.x_shape
        if not -len(shape) <= self.axis < len(shape):
            return f"samples {list(shape)} have no axis {self.axis}"
        if not len(self.scale) == len(self.shift) == shape[self.axis]:
            return f"{len(self.scale)} scales and {len(self.shift)} shifts for an axis of size {shape[self.axis]}"
        if not all(map(isfinite, (*self.scale, *self.shift, self.constant))):
            return "its scale, shift and constant are not all finite"
        return None

    def describe(self, of: DescriptionProtocol) -> str:
        along = f"units: scale * x + shift along axis {self.axis}"
        return f"{along}; scale {format_numbers(self.scale)}; shift {format_numbers(self.shift)}"


class UnitsFacts(Protocol):
    """The properties of a denoiser that determine the units of its samples."""

    @property
    def name(self) -> str: ...

    @property
    def x_shape(self) -> tuple[int, ...]: ...

    @property
    def units(self) -> Affine | None: ...


def to_units(manifest: UnitsFacts, x: ArrayLike) -> Float32:
    """Convert samples [..., *x_shape] from model range to units."""
    units, values, scale, shift = _broadcast_affine(manifest, x)
    return (values * scale + shift).astype(np.float32)


def from_units(manifest: UnitsFacts, value: ArrayLike) -> Float32:
    """Convert samples [..., *x_shape] from units to model range."""
    units, values, scale, shift = _broadcast_affine(manifest, value)
    moves = scale != 0
    return np.where(moves, (values - shift) / np.where(moves, scale, 1.0), units.constant).astype(np.float32)


def _broadcast_affine(
    manifest: UnitsFacts, samples: ArrayLike
) -> tuple[Affine, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return a bundle's affine map to physical units, and the samples, scale and shift as float64 arrays that
    broadcast. Raises UserError if the bundle has no units."""
    units, shape = manifest.units, manifest.x_shape
    if units is None:
        raise UserError(f"bundle {manifest.name!r} does not say in which units its samples are", EXPORT_WITH_UNITS)
    fix = f"give [..., {', '.join(map(str, shape))}]"
    values = as_numbers(samples, "samples", fix, np.float64)
    if values.ndim < len(shape) or values.shape[-len(shape) :][units.axis] != len(
        units.scale
    ):  # the other axes may be free
        raise UserError(f"samples have the shape {list(values.shape)}", fix)
    along = [1] * len(shape)
    along[units.axis] = -1
    scale, shift = (np.reshape(np.asarray(each, np.float64), along) for each in (units.scale, units.shift))
    return units, values, scale, shift
