"""Free sizes: axes of x, such as height and width, whose sizes a caller chooses.

A dimension of a tensor is a number, or a term of the sizes: "height", "height*2", "height/8", "height*width/64".
`apply_sizes` replaces all terms by numbers for chosen sizes.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, ClassVar, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans.argument_checks import as_integer
from fewstep.plans.errors import UserError
from fewstep.runtime.kinds.condition import Condition
from fewstep.runtime.kinds.kind import DescriptionProtocol, FreeAxis, Kind

Dimension = int | str
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
RESERVED = "batch"
LARGEST = 2**24  # upper limit of one size
ELEMENTS_LIMIT = 2**28  # upper limit of a sample's elements; a larger shape comes from a damaged file

T = TypeVar("T", bound=DescriptionProtocol)


class Size(FreeAxis, Kind, frozen=True):
    """A free axis of x, as an optional property of a denoiser."""

    FIX: ClassVar = "give a tuple of Size(name, axis of x_shape, low, high, multiple)"

    def problem(self, of: DescriptionProtocol) -> str | None:
        shape = of.x_shape
        if not NAME.fullmatch(self.name) or self.name == RESERVED:
            return f"{self.name!r}: a name consists of letters, digits and _, and is not 'batch'"
        if sum(self.name == other.name or self.axis == other.axis is not None for other in of.sizes) > 1:
            return f"{self.name}: another size has this name or axis {self.axis}"
        if self.axis is not None and not 0 <= self.axis < len(shape):
            return f"{self.name}: x_shape {list(shape)} has no axis {self.axis}"
        if self.axis == 0 and of.heads > 1:
            return f"{self.name}: axis 0 cannot be free, because several outputs are concatenated along it"
        if not 1 <= self.low <= self.high <= LARGEST or self.multiple < 1:
            return f"{self.name}: {self.low} to {self.high} in steps of {self.multiple} is not a valid range"
        for name, value in (("low", self.low), ("high", self.high), ("x_shape's", self.default(shape))):
            if value % self.multiple or not self.low <= value <= self.high:
                allowed = f"multiple of {self.multiple} from {self.low} to {self.high}"
                return f"{self.name}: {name} {value} is not a {allowed}"
        return None

    def describe(self, of: DescriptionProtocol) -> str:
        return f"{'free size' if self.axis is not None else 'length of texts'}: {self.range}"


def apply_sizes(takes: T, sizes: Mapping[str, int] | None = None) -> T:
    """Return the manifest, or spec, with the shapes of x and conditions at the given sizes, all as numbers.

    A size that is not given keeps its default from `x_shape`. Raises UserError for an invalid size.
    """
    if not takes.sizes:
        if sizes:
            what = f"sizes {dict(sizes)!r} are given, but x has the fixed shape {list(takes.x_shape)}"
            raise UserError(what, "leave sizes out")
        return takes
    values = default_sizes(takes.x_shape, takes.sizes) | _check_sizes(takes, {} if sizes is None else sizes)
    x_shape = list(takes.x_shape)
    for size in takes.sizes:
        if size.axis is not None:
            x_shape[size.axis] = values[size.name]
    if prod(x_shape) > ELEMENTS_LIMIT:
        raise UserError(f"x of shape {x_shape} has more than {ELEMENTS_LIMIT} elements", "give smaller sizes")
    conditions = tuple(_size_condition(condition, values) for condition in takes.conditions)
    axes = tuple(
        size if size.axis is not None else msgspec.structs.replace(size, usual=values[size.name])
        for size in takes.sizes
    )
    changed: Any = msgspec.structs.replace(cast(Any, takes), x_shape=tuple(x_shape), conditions=conditions, sizes=axes)
    return cast(T, changed)


def sizes_of(x_shape: Sequence[int], takes: DescriptionProtocol) -> dict[str, int] | None:
    """Return the sizes of an x of this shape [*x_shape], even if they are outside their ranges. None if no sizes give x
    this shape."""
    if len(x_shape) != len(takes.x_shape):
        return None
    free = {size.axis: size.name for size in takes.sizes if size.axis is not None}
    if any(axis not in free and x_shape[axis] != size for axis, size in enumerate(takes.x_shape)):
        return None
    return {name: x_shape[axis] for axis, name in free.items()}


def default_sizes(x_shape: Sequence[int], sizes: Sequence[FreeAxis]) -> dict[str, int]:
    """Return the default of each size, by name."""
    return {size.name: size.default(x_shape) for size in sizes}


def describe_sizes(sizes: Sequence[FreeAxis]) -> str:
    """Return the ranges as text: "height 32 to 128 in steps of 8"."""
    return ", ".join(size.range for size in sizes)


def resolve_dimension(size: Dimension, values: Mapping[str, int]) -> int:
    """Return the number that a dimension, such as "height/2", has for these sizes.

    Raises ValueError if it is not a whole number, and KeyError for an unknown name.
    """
    if isinstance(size, int):
        return size
    factor, names = parse_dimension(size)
    number = factor * prod(values[name] for name in names)
    if number.denominator != 1:
        raise ValueError(f"{size!r} is not a whole number")
    return int(number)


def infer_sizes(named: Sequence[Dimension], shape: Sequence[int]) -> dict[str, int]:
    """Return the batch and the free sizes that follow from the shape of a tensor, by name. A dimension with several
    names, such as "height*width", determines none."""
    sizes = {}
    for size, length in zip(named, shape, strict=False):
        if isinstance(size, str):
            factor, names = parse_dimension(size)
            if len(names) == 1:
                sizes[names[0]] = length * factor.denominator // factor.numerator
    return sizes


def sizes_for_shape(condition: Condition, shape: Sequence[int], axes: Sequence[FreeAxis]) -> dict[str, int]:
    """Return the free sizes at which a condition has a shape. Empty if none are known, or one is outside its range."""
    return sizes_in_range(free_shape(condition.shape, condition.follows), shape, axes) or {}


def sizes_in_range(named: Sequence[Dimension], shape: Sequence[int], axes: Sequence[FreeAxis]) -> dict[str, int] | None:
    """Return the free sizes at which a tensor has a shape. None if there are none, or if one is outside its range."""
    sizes = infer_sizes(named, shape)
    own = {axis.name: axis for axis in axes}
    try:
        are_valid = all(own[name].takes(size) for name, size in sizes.items())
        return sizes if are_valid and [resolve_dimension(size, sizes) for size in named] == list(shape) else None
    except (KeyError, ValueError):  # a product of two sizes, or no whole number
        return None


def advise_sizes(condition: Condition, shape: Sequence[int], axes: Sequence[FreeAxis]) -> str:
    """Return advice on the free sizes at which a condition has a shape, as the end of a fix; "" if none are known."""
    sizes = ", ".join(f"{name}={size}" for name, size in sizes_for_shape(condition, shape, axes).items())
    return f", or choose the free size: sampler.with_options({sizes})" if sizes else ""


def free_shape(shape: Sequence[int], follows: Mapping[int, str]) -> tuple[Dimension, ...]:
    """Return a shape as in a graph's inputs: axes that depend on x's free sizes have an expression such as "height/2"
    instead of a number."""
    return tuple(follows.get(axis, size) for axis, size in enumerate(shape))


def free_x_shape(takes: DescriptionProtocol) -> tuple[Dimension, ...]:
    return free_shape(takes.x_shape, {size.axis: size.name for size in takes.sizes if size.axis is not None})


def input_shape(takes: DescriptionProtocol, shape: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Return the shape of a network's input for x of a shape. A self-conditioned network takes x0 after x along the
    first axis."""
    first, *others = shape
    return (2 * first if takes.self_condition and isinstance(first, int) else first, *others)


def output_shape(takes: DescriptionProtocol, shape: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Return the shape of a prediction for x of a shape. Heads are concatenated along the first axis, and logits are a
    last axis."""
    first, *others = shape
    return (takes.heads * first if isinstance(first, int) else first, *others, *takes.space.logits)


def follows_problem(condition: Condition, takes: DescriptionProtocol) -> str | None:
    """Return what is wrong with those axes of a condition whose sizes depend on x's free sizes, as text, or None if
    nothing is."""
    values = default_sizes(takes.x_shape, takes.sizes)
    of_x = set(condition.follows.values()) - {size.name for size in takes.sizes if size.axis is None}
    if condition.follows and (condition.default is not None or (of_x and condition.null_file is not None)):
        return "its default, or its null value in a file, has a fixed shape"
    for axis, size in condition.follows.items():
        if not 0 <= axis < len(condition.shape):
            return f"shape {list(condition.shape)} has no axis {axis}"
        if problem := dimension_problem(size, takes.sizes):
            return problem
        if resolve_dimension(size, values) != condition.shape[axis]:
            return f"axis {axis} is {condition.shape[axis]}, but {size} is {resolve_dimension(size, values)} by default"
    return None


def dimension_problem(size: Dimension, sizes: Sequence[FreeAxis]) -> str | None:
    """Return what is wrong with a dimension of a condition or of a graph's tensor, as text, or None if nothing is."""
    if isinstance(size, int):
        return None if size >= 1 else f"{size} is not a size"
    try:
        factor, names = parse_dimension(size)
    except ValueError:
        return f"{size!r} is neither a number nor a term of sizes such as height/8"
    steps = {size.name: size.multiple for size in sizes}
    for name in names:
        if name not in steps:
            return f"there is no size {name!r}"
    if (factor * prod(steps[name] for name in names)).denominator != 1:
        return f"{size!r} is not always a whole number: choose sizes' multiples that make it one"
    return None


@lru_cache(256)
def parse_dimension(text: str) -> tuple[Any, tuple[str, ...]]:
    """Parse a product of numbers and names over a number -> (a Fraction, the names).

    Raises ValueError for anything else.
    """
    from fractions import Fraction  # loads decimal, which importing the runtime does not need

    above, slash, below = text.partition("/")
    factors = above.split("*")
    names = [factor for factor in factors if NAME.fullmatch(factor)]
    numbers = [int(factor) for factor in factors if factor not in names and _is_number(factor)]
    if not names or len(names) + len(numbers) < len(factors) or (slash and not _is_number(below)):
        raise ValueError(f"{text!r} is not a dimension")
    return Fraction(prod(numbers), int(below) if slash else 1), tuple(names)


def fit_lengths(
    conditions: Sequence[Condition], values: Mapping[str, Any], axes: Sequence[FreeAxis]
) -> Sequence[Condition]:
    """Return conditions with the lengths of the texts in `values` [samples, *shape]. Each call and each branch may have
    other lengths, in the range of their size."""
    free = {size.name: size for size in axes if size.axis is None}
    lengths: dict[str, int] = {}
    for condition in conditions if free else ():
        for axis, name in condition.follows.items():
            value = values.get(condition.name)
            shape = np.shape(value[0]) if value is not None and len(value) else ()
            if name in free and len(shape) == len(condition.shape) and free[name].takes(shape[axis]):
                lengths.setdefault(name, shape[axis])
    return [_fit_length(condition, lengths) for condition in conditions] if lengths else conditions


def cut_to_prompt(
    conditions: Sequence[Condition],
    nulls: Mapping[str, NDArray[Any]],
    values: Mapping[str, NDArray[Any]],
    axes: Sequence[FreeAxis],
) -> Mapping[str, NDArray[Any]]:
    """Return null values [*own] with the lengths of the conditional `values` [samples, *shape], where all branches have
    those."""
    of_prompt = {size.name for size in axes if size.of_prompt}
    cut = dict(nulls)
    for condition in conditions if of_prompt else ():
        if condition.name in cut:
            free = {axis for axis, name in condition.follows.items() if name in of_prompt}
            sizes = enumerate(values[condition.name].shape[1:])
            cut[condition.name] = cut[condition.name][tuple(slice(n if axis in free else None) for axis, n in sizes)]
    return cut


def has_shape(condition: Condition, shape: Sequence[int]) -> bool:
    """Return True if a value may have a shape, with any length of a text."""
    own = [each if axis in condition.follows else size for (axis, size), each in zip(enumerate(condition.shape), shape)]
    return len(shape) == len(condition.shape) and list(shape) == own


def longest_shape(condition: Condition, axes: Sequence[FreeAxis]) -> tuple[int, ...]:
    """Return the shape of a condition of the longest texts."""
    return _fit_length(condition, {size.name: size.high for size in axes if size.axis is None}).shape


def _fit_length(condition: Condition, lengths: Mapping[str, int]) -> Condition:
    shape = tuple(lengths.get(condition.follows.get(axis, ""), size) for axis, size in enumerate(condition.shape))
    return condition if shape == condition.shape else msgspec.structs.replace(condition, shape=shape)


def _size_condition(condition: Condition, values: Mapping[str, int]) -> Condition:
    shape = (resolve_dimension(size, values) for size in free_shape(condition.shape, condition.follows))
    return msgspec.structs.replace(condition, shape=tuple(shape)) if condition.follows else condition


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0


def _check_sizes(takes: DescriptionProtocol, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the given sizes as integers. Raises UserError for one that is unknown or outside its range."""
    ranges = describe_sizes(takes.sizes)
    by_name = {size.name: size for size in takes.sizes}
    checked = {}
    for name, value in sizes.items():
        if name not in by_name:
            raise UserError(f"unknown size {name!r}", f"it has {ranges}")
        size = by_name[name]
        number = as_integer(value)
        if number is None:
            raise UserError(f"{name} {value!r} is not a whole number", f"give {describe_sizes([size])}")
        if not size.takes(number):
            what = "outside its range" if number % size.multiple == 0 else f"not a multiple of {size.multiple}"
            raise UserError(f"{name} {number} is {what}", f"give {describe_sizes([size])}")
        checked[name] = number
    return checked
