"""The shape of an update, and whether it is one of a weight [out, in, *kernel]."""

from collections.abc import Mapping, Sequence
from math import prod

from fewstep.runtime.lora.file import Floats, has_kronecker

Shape = tuple[int, ...]


def fits_weight(update: Sequence[int], weight: Sequence[int]) -> bool:
    """Return whether an update of this shape is one of a weight of that shape.

    A matrix [out, columns] fits if it has as many numbers, since all trainers flatten a kernel in the same order. Any
    other update must have the weight's dimensions, or its axes may be in another order. Dimensions of size 1 do not
    count: a 1x1 convolution is a linear layer.
    """
    if len(update) == 2:
        return update[0] == weight[0] and prod(update) == prod(weight)
    return update[0] == weight[0] and _without_ones(update) == _without_ones(weight)


def update_shape(parts: Mapping[str, Floats]) -> Shape:
    """Return the shape [out, in, *kernel] of an update, or [out, columns] if its factors are matrices."""
    if "diff" in parts:
        return parts["diff"].shape
    if "hada_w1_a" in parts:
        return _product_shape(parts["hada_w1_a"], parts["hada_w1_b"], parts.get("hada_t1"))
    if has_kronecker(parts):
        first, second = (_kronecker_shape(parts, side) for side in "12")
        return (first[0] * second[0], first[1] * second[1], *second[2:])
    up, down, core = parts["up"], parts["down"], parts.get("mid")
    return (len(up), down.shape[1], *(down if core is None else core).shape[2:])


def _kronecker_shape(parts: Mapping[str, Floats], side: str) -> Shape:
    if (whole := parts.get(f"lokr_w{side}")) is not None:
        return whole.shape
    return _product_shape(parts[f"lokr_w{side}_a"], parts[f"lokr_w{side}_b"], parts.get(f"lokr_t{side}"))


def _product_shape(a: Floats, b: Floats, core: Floats | None) -> Shape:
    """Return the shape of a b, with a core [p, q, *kernel] between a transposed a and b if there is one."""
    return (len(a), *b.shape[1:]) if core is None else (a.shape[1], b.shape[1], *core.shape[2:])


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]
