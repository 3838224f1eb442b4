"""The units of samples, such as a robot's: `runtime.units` converts."""

from math import isfinite
from typing import TYPE_CHECKING, ClassVar

from fewstep.runtime.kinds.kind import Kind, numbers

if TYPE_CHECKING:
    from fewstep.runtime.bundle.manifest import Description


class Affine(Kind, frozen=True):
    """From model range to units: value = scale * x + shift, one pair for each place along an axis of x.

    Training data never changed where a scale is 0, and the network was trained on `constant` there.
    """

    FIX: ClassVar = "give Affine(scale, shift) with one number for each place along an axis of x"
    EXPERTS: ClassVar = "without"

    scale: tuple[float, ...]
    shift: tuple[float, ...]
    axis: int = -1  # of one sample, as Python counts
    constant: float = 0.0

    def problem(self, of: "Description") -> str | None:
        shape = of.x_shape
        if not -len(shape) <= self.axis < len(shape):
            return f"samples {list(shape)} have no axis {self.axis}"
        if not len(self.scale) == len(self.shift) == shape[self.axis]:
            return f"{len(self.scale)} scales and {len(self.shift)} shifts for {shape[self.axis]} places"
        if not all(map(isfinite, (*self.scale, *self.shift, self.constant))):
            return "a number of it is not finite"
        return None

    def words(self, of: "Description") -> str:
        along = f"units: scale * x + shift along axis {self.axis}"
        return f"{along}; scale {numbers(self.scale)}; shift {numbers(self.shift)}"
