"""Conversion of samples between model range and the units of a bundle's manifest, such as a robot's actions.

sampler.to_units(actions)      radians, metres, ... from model range
sampler.from_units(actions)    model range from units: for `hold`, for `given`
"""

from functools import lru_cache
from math import isfinite, prod
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Float32, as_numbers
from fewstep.runtime.kinds.kind import DescriptionProtocol, Kind, format_numbers

EXPORT_WITH_UNITS = "export it with units=Affine(scale, shift) in its spec"


class Affine(Kind, frozen=True):
    """The map from model range to units: value = scale * x + shift, with one pair for each index along an axis of x, or
    for each element of x, in the order of C.

    A scale of 0 marks an index at which the training data were constant. There, x was always `constant` in training.
    """

    FIX: ClassVar = "give Affine(scale, shift) with one number for each place along an axis of x, or axis=None for each"
    EXPERTS: ClassVar = "without"

    scale: tuple[float, ...]
    shift: tuple[float, ...]
    axis: int | None = -1  # axis of one sample; negative axes count from the end, and None is for each element
    constant: float = 0.0

    def problem(self, of: DescriptionProtocol) -> str | None:
        shape = of.x_shape
        if self.axis is None:
            if any(size.axis is not None for size in of.sizes):
                return "a unit of each element is for samples of one size"
            if of.positions is not None:
                return "a unit of each element is not for positions with times of their own, which move along x"
        elif not -len(shape) <= self.axis < len(shape):
            return f"samples {list(shape)} have no axis {self.axis}"
        count, where = (prod(shape), f"samples {list(shape)}") if self.axis is None else (shape[self.axis], "an axis")
        if not len(self.scale) == len(self.shift) == count:
            return f"{len(self.scale)} scales and {len(self.shift)} shifts for {where} of size {count}"
        if not all(map(isfinite, (*self.scale, *self.shift, self.constant))):
            return "its scale, shift and constant are not all finite"
        return None

    def describe(self, of: DescriptionProtocol) -> str:
        along = "units: scale * x + shift " + ("of each element" if self.axis is None else f"along axis {self.axis}")
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
    units, values = _check_samples(manifest, x)
    scale, shift, _ = _affine_arrays(units, manifest.x_shape)
    return (values * scale + shift).astype(np.float32)


def from_units(manifest: UnitsFacts, value: ArrayLike) -> Float32:
    """Convert samples [..., *x_shape] from units to model range."""
    units, values = _check_samples(manifest, value)
    scale, shift, is_constant = _affine_arrays(units, manifest.x_shape)
    if is_constant is None:
        return ((values - shift) / scale).astype(np.float32)
    moved = (values - shift) / np.where(is_constant, 1.0, scale)
    return np.where(is_constant, units.constant, moved).astype(np.float32)


def _check_samples(manifest: UnitsFacts, samples: ArrayLike) -> tuple[Affine, NDArray[np.float64]]:
    """Return a bundle's affine map to physical units, and the samples as float64. Raises UserError if the bundle has no
    units."""
    units, shape = manifest.units, manifest.x_shape
    if units is None:
        raise UserError(f"bundle {manifest.name!r} does not say in which units its samples are", EXPORT_WITH_UNITS)
    fix = f"give [..., {', '.join(map(str, shape))}]"
    values = as_numbers(samples, "samples", fix, np.float64)
    own, fits = values.shape[-len(shape) :], values.ndim >= len(shape)
    if fits:  # other axes than that of the units may be free
        fits = own == shape if units.axis is None else own[units.axis] == len(units.scale)
    if not fits:
        raise UserError(f"samples have the shape {list(values.shape)}", fix)
    return units, values


@lru_cache(64)
def _affine_arrays(
    units: Affine, x_shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_] | None]:
    """Return scale, shift, and where the data were constant, as read-only arrays that broadcast against samples. The
    last is None if the data were constant nowhere."""
    along = [1] * len(x_shape)
    if units.axis is None:
        along = [*x_shape]
    else:
        along[units.axis] = -1
    scale, shift = (np.array(numbers, np.float64).reshape(along) for numbers in (units.scale, units.shift))
    is_constant = scale == 0
    for array in (scale, shift, is_constant):
        array.setflags(write=False)
    return scale, shift, is_constant if is_constant.any() else None
