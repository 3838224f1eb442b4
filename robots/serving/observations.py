"""What a client calls its measurements, and how it lays out its pictures, as the conditions of a policy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition


@dataclass(frozen=True)
class Observations:
    """The observations that a policy takes.

    conditions: by name. The shape of one is that of a single observation: numbers [n], or a picture [3, H, W].
    renamed: conditions by the names that clients give them, for those with other names.
    """

    conditions: Mapping[str, Condition]
    renamed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.renamed.values() if name not in self.conditions]:
            raise UserError(f"the policy has no condition {unknown[0]!r}", f"rename to {', '.join(self.conditions)}")

    def condition_of(self, name: str) -> str | None:
        """Return the condition for a client's name; None if there is none. `observation/state`, as openpi writes it, is
        `observation.state`."""
        condition = self.renamed.get(name, name.replace("/", "."))
        return condition if condition in self.conditions else None

    def arrange(self, measured: Mapping[str, object], resizes: bool = False) -> dict[str, object]:
        """Return a client's measurements by the names of conditions, pictures as [3, H, W]. Others are left out.

        resizes: whether uint8 pictures of another size are resized, as LeRobot's server does.
        """
        arranged = dict[str, object]()
        for name, value in measured.items():
            if (condition := self.condition_of(name)) is None:
                continue
            if condition in arranged:
                raise UserError(f"the observation has {condition!r} twice", "send each measurement under one name")
            arranged[condition] = _arrange_picture(name, value, self.conditions[condition], resizes)
        return arranged

    @property
    def most_bytes(self) -> int:
        """The bytes of an observation whose numbers have 8 bytes each."""
        return sum(8 * math.prod(condition.shape) for condition in self.conditions.values())


def _arrange_picture(name: str, value: object, condition: Condition, resizes: bool) -> object:
    """Return a picture [H, W, 3] as [3, H, W], of the condition's size if `resizes`. Other values are unchanged. Raises
    UserError for an array that is not a uint8 picture of this size, if the condition is one."""
    shape = condition.shape
    if len(shape) != 3 or not isinstance(value, np.ndarray) or value.ndim < 2:
        return value
    picture = value
    if value.ndim > 2 and value.shape[-3:] != shape and value.shape[-1] == shape[0]:
        picture = np.moveaxis(value, -1, -3)
    if resizes and value.dtype == np.uint8 and picture.shape != shape and value.ndim == 3 and 0 not in value.shape:
        picture = resize_picture(picture, (shape[1], shape[2]))
    if condition.dtype == "uint8" and (picture.dtype != np.uint8 or picture.shape != shape):
        channels, height, width = shape
        fix = f"send uint8 [{height}, {width}, {channels}] or {list(shape)}"
        raise UserError(f"the picture {name!r} is {value.dtype} {list(value.shape)}", fix)
    return picture


def resize_picture(picture: NDArray[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a picture [C, H, W] by bilinear interpolation without antialiasing, as torch's `interpolate` does with
    `align_corners=False`."""
    resized = picture.astype(np.float32)
    for axis, count in ((1, size[0]), (2, size[1])):
        length = resized.shape[axis]
        place = np.clip((np.arange(count, dtype=np.float32) + 0.5) * (length / count) - 0.5, 0, length - 1)
        below = place.astype(np.int64)
        share = (place - below).reshape(-1, *[1] * (2 - axis))
        above = np.minimum(below + 1, length - 1)
        resized = (1 - share) * resized.take(below, axis) + share * resized.take(above, axis)
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)
