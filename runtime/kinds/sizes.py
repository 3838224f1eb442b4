"""Axes of x that a caller sizes: `runtime.sizes` has the shapes that follow."""

import re
from typing import TYPE_CHECKING, ClassVar

from fewstep.runtime.kinds.kind import Kind

if TYPE_CHECKING:
    from fewstep.runtime.bundle.manifest import Description

NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
RESERVED = "batch"
LARGEST = 2**24  # of one size


class Size(Kind, frozen=True):
    """A free axis of x: a caller may choose a multiple of `multiple` from `low` to `high`, both included.

    `axis` counts in `x_shape`, whose number there is the default. See `runtime.sizes` for how shapes follow from sizes.
    """

    FIX: ClassVar = "give a tuple of Size(name, axis of x_shape, low, high, multiple)"

    name: str
    axis: int
    low: int
    high: int
    multiple: int = 1

    def problem(self, of: "Description") -> str | None:
        shape = of.x_shape
        if not NAME.fullmatch(self.name) or self.name == RESERVED:
            return f"{self.name!r}: a name is a word of letters, digits and _, and not 'batch'"
        if sum(self.name == other.name or self.axis == other.axis for other in of.sizes) > 1:
            return f"{self.name}: another one has this name, or axis {self.axis}"
        if not 0 <= self.axis < len(shape):
            return f"{self.name}: x_shape {list(shape)} has no axis {self.axis}"
        if self.axis == 0 and of.heads > 1:
            return f"{self.name}: several outputs stand one after the other along axis 0"
        if not 1 <= self.low <= self.high <= LARGEST or self.multiple < 1:
            return f"{self.name}: {self.low} to {self.high} in steps of {self.multiple} is no range"
        for said, value in (("low", self.low), ("high", self.high), ("x_shape's", shape[self.axis])):
            if value % self.multiple or not self.low <= value <= self.high:
                allowed = f"multiple of {self.multiple} from {self.low} to {self.high}"
                return f"{self.name}: {said} {value} is no {allowed}"
        return None

    @property
    def range(self) -> str:
        """Its range in words: "height 32 to 128 in steps of 8"."""
        return f"{self.name} {self.low} to {self.high} in steps of {self.multiple}"

    def words(self, of: "Description") -> str:
        return f"free size: {self.range}"
