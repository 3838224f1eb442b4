"""The ranges of named dimensions, for graphs with free axes other than the batch.

`runtime/kinds/sizes.py` defines the names: "height", "height/8". A graph file stores the range of each name in its
metadata, so that a reader of the file knows which shapes it accepts.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import combinations_with_replacement
from math import prod

import msgspec

from fewstep.graph.graph import BATCH, OUTPUT, Extent, Graph, Value, X
from fewstep.runtime.bundle.manifest import Description
from fewstep.runtime.kinds.sizes import (
    default_sizes,
    free_shape,
    free_x_shape,
    input_shape,
    output_shape,
    resolve_dimension,
)

METADATA = "fewstep.sizes"  # the key of the metadata in a file
FACTORS = 2  # sizes multiplied in one dimension: the tokens of a picture are height * width / 64
DIVISORS = (2, 3, 5)  # by which networks divide sizes
LIMIT = 8  # maximum number of sizes in a file, which is untrusted


def extents_of(takes: Description) -> dict[str, Extent]:
    """Return the ranges of the free sizes of a spec or manifest, by name."""
    usual = default_sizes(takes.x_shape, takes.sizes)
    return {size.name: Extent(usual[size.name], size.low, size.high, size.multiple) for size in takes.sizes}


def free_ports(graph: Graph, takes: Description) -> Graph:
    """Return a denoiser's graph with the free axes of its inputs and outputs named as in fewstep, instead of by the
    exporter."""
    if not takes.sizes:
        return graph
    shapes = {X: input_shape(takes, free_x_shape(takes))} | {
        condition.input: free_shape(condition.shape, condition.follows) for condition in takes.conditions
    }
    shapes[OUTPUT] = output_shape(takes, free_x_shape(takes))

    def name_axes(value: Value) -> Value:
        return replace(value, shape=(*value.shape[:1], *shapes.get(value.name, value.shape[1:])))

    return replace(graph.with_ports(name_axes), extents=extents_of(takes))


def fix_sizes(graph: Graph, sizes: Mapping[str, int] | None = None) -> Graph:
    """Return the graph for one choice of the free sizes, with numbers in place of their names. `sizes` None stands for
    the default sizes."""
    if not graph.extents:
        return graph
    chosen = {name: extent.usual for name, extent in graph.extents.items()} | dict(sizes or {})

    def fix_value(value: Value) -> Value:
        return replace(value, shape=tuple(_number(size, chosen) for size in value.shape))

    return replace(graph.with_ports(fix_value), extents={})


def fix_batch(graph: Graph, batch: int) -> Graph:
    """Return the graph for one batch size. All shapes become numbers, even if the batch is merged with another axis."""

    def fix_value(value: Value) -> Value:
        return replace(value, shape=tuple(batch if size == BATCH else size for size in value.shape))

    return graph.with_ports(fix_value)


def probe_sizes(extents: Mapping[str, Extent]) -> list[dict[str, int]]:
    """Return several choices of all free sizes: the defaults, one choice for each size in which only that size is
    changed, and one in which all are changed. They suffice to determine which size each dimension depends on and, if
    the ranges allow it, how a quotient is rounded: half of 64 is 32 rounded up or down, but half of 511 differs."""
    usual = {name: extent.usual for name, extent in extents.items()}
    others = {name: list(_other_numbers(extent)) or [extent.usual] for name, extent in extents.items()}
    alone = [usual | {name: values[0]} for name, values in others.items()]
    return [usual, *alone, {name: values[-1] for name, values in others.items()}]


def dimension_name(dimensions: Sequence[int | str], at: Sequence[Mapping[str, int]]) -> int | str:
    """Return the name of a dimension, given its values for several choices `at` of the free sizes; "?" if a value is
    not a number.

    The name is a number if the value never changes, and "height/8" or "height*width/64" if it is a multiple of sizes.
    Otherwise it joins the values by "|", so that equal dimensions have equal names.
    """
    if all(size == dimensions[0] for size in dimensions):
        return dimensions[0]
    if any(isinstance(size, str) for size in dimensions):
        return "?"
    for count in range(1, FACTORS + 1):
        for names in combinations_with_replacement(at[0], count):
            ratios = {
                Fraction(int(size), prod(values[name] for name in names))
                for size, values in zip(dimensions, at, strict=True)
            }
            if len(ratios) == 1:
                (ratio,) = ratios
                above = "" if ratio.numerator == 1 else f"*{ratio.numerator}"
                return "*".join(names) + above + ("" if ratio.denominator == 1 else f"/{ratio.denominator}")
    return "|".join(map(str, dimensions))


def is_named(size: int | str) -> bool:
    """Return True if a dimension is a number or a multiple of named sizes: not "?" and not values joined by "|"."""
    return isinstance(size, int) or not ("?" in size or "|" in size)


def restrict_extents(graph: Graph) -> Graph:
    """Return the graph with only those extents whose names occur in its inputs."""
    used = " ".join(size for value in graph.inputs for size in value.shape if isinstance(size, str))
    words = frozenset(re.findall(r"\w+", used))
    return replace(graph, extents={name: extent for name, extent in graph.extents.items() if name in words})


def encode(extents: Mapping[str, Extent]) -> dict[str, str]:
    """Return the metadata of a file; empty for a graph without free sizes."""
    return {METADATA: json.dumps({name: asdict(extent) for name, extent in extents.items()})} if extents else {}


def decode(metadata: Mapping[str, str]) -> dict[str, Extent]:
    """Return the extents that `encode` wrote. Raises ValueError for anything else."""
    try:
        extents = msgspec.json.decode(metadata.get(METADATA, "{}"), type=dict[str, Extent])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"metadata {METADATA!r} is not a list of sizes") from error
    if len(extents) > LIMIT:
        raise ValueError(f"metadata {METADATA!r} lists {len(extents)} sizes, more than {LIMIT}")
    for name, extent in extents.items():
        if not 1 <= extent.low <= extent.usual <= extent.high or extent.multiple < 1:
            raise ValueError(f"size {name!r} has an invalid range: {extent}")
    return extents


def _number(size: int | str, sizes: Mapping[str, int]) -> int | str:
    """Return the dimension as a number if its name consists of sizes. The batch keeps its name."""
    try:
        return resolve_dimension(size, sizes)
    except (KeyError, ValueError):
        return size


def _other_numbers(extent: Extent) -> Iterator[int]:
    """Yield up to two values of the range other than the default: the low end, and a high one whose number of multiples
    is odd and has none of the other `DIVISORS`, if there is such a value."""
    if extent.low != extent.usual:
        yield extent.low
    highest = range(extent.high // extent.multiple, extent.low // extent.multiple, -1)[: 2 * prod(DIVISORS)]
    numbers = [number for number in highest if number * extent.multiple != extent.usual]
    if numbers:
        yield extent.multiple * min(numbers, key=lambda number: [number % divisor == 0 for divisor in DIVISORS])
