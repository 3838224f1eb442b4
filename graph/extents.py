"""The numbers that named dimensions stand for, in graphs with free axes other than the batch.

`runtime/kinds/sizes.py` defines the names: "height", "height/8". A graph file carries the range of each name in its
metadata, so a reader of the file knows which shapes it takes.
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
from fewstep.runtime.kinds.sizes import default_sizes, free_shape, free_x_shape, output_shape, resolve_dimension

METADATA = "fewstep.sizes"  # the key in a file
FACTORS = 2  # sizes in one dimension: the tokens of a picture are height * width / 64
LIMIT = 8  # sizes of a file, which may come from anywhere


def extents_of(takes: Description) -> dict[str, Extent]:
    """The extents of a spec or manifest, by size."""
    usual = default_sizes(takes.x_shape, takes.sizes)
    return {size.name: Extent(usual[size.name], size.low, size.high, size.multiple) for size in takes.sizes}


def free_ports(graph: Graph, takes: Description) -> Graph:
    """The graph of a denoiser with the names of its free axes in its ports, whatever they were called there."""
    if not takes.sizes:
        return graph
    shapes = {X: free_x_shape(takes)} | {each.input: free_shape(each.shape, each.follows) for each in takes.conditions}
    shapes[OUTPUT] = output_shape(takes, free_x_shape(takes))

    def name_axes(value: Value) -> Value:
        return replace(value, shape=(*value.shape[:1], *shapes.get(value.name, value.shape[1:])))

    return replace(graph.with_ports(name_axes), extents=extents_of(takes))


def fix_sizes(graph: Graph, sizes: Mapping[str, int] | None = None) -> Graph:
    """The graph for one choice of its sizes (None: the usual ones), with numbers where names were."""
    if not graph.extents:
        return graph
    chosen = {name: extent.usual for name, extent in graph.extents.items()} | dict(sizes or {})

    def fix_value(value: Value) -> Value:
        return replace(value, shape=tuple(_number(size, chosen) for size in value.shape))

    return replace(graph.with_ports(fix_value), extents={})


def fix_batch(graph: Graph, batch: int) -> Graph:
    """The graph for one batch size: its shapes are numbers also where the batch was merged with another axis."""

    def fix_value(value: Value) -> Value:
        return replace(value, shape=tuple(batch if size == BATCH else size for size in value.shape))

    return graph.with_ports(fix_value)


def probe_sizes(extents: Mapping[str, Extent]) -> list[dict[str, int]]:
    """Choices of all sizes that show from which size a dimension follows: the usual ones first, then each size changed
    alone, then all changed together."""
    usual = {name: extent.usual for name, extent in extents.items()}
    others = {name: list(_other_numbers(extent)) or [extent.usual] for name, extent in extents.items()}
    alone = [usual | {name: values[0]} for name, values in others.items()]
    return [usual, *alone, {name: values[-1] for name, values in others.items()}]


def dimension_name(dimensions: Sequence[int | str], at: Sequence[Mapping[str, int]]) -> int | str:
    """The name of a dimension of these values at these choices of the sizes; "?" where one of them is no number.

    A number if it never changes; "height/8" or "height*width/64" if it is a multiple of sizes; else its numbers one
    after the other, which are a name as good as any for what is equal elsewhere.
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
    """True if a dimension is a number, or called after what it follows: not "?", nor numbers one after the other."""
    return isinstance(size, int) or not ("?" in size or "|" in size)


def restrict_extents(graph: Graph) -> Graph:
    """The graph with the sizes that its inputs have, and no others."""
    used = " ".join(size for value in graph.inputs for size in value.shape if isinstance(size, str))
    words = frozenset(re.findall(r"\w+", used))
    return replace(graph, extents={name: extent for name, extent in graph.extents.items() if name in words})


def encode(extents: Mapping[str, Extent]) -> dict[str, str]:
    """The metadata of a file; none for a graph without free sizes."""
    return {METADATA: json.dumps({name: asdict(extent) for name, extent in extents.items()})} if extents else {}


def decode(metadata: Mapping[str, str]) -> dict[str, Extent]:
    """The extents that `encode` wrote. ValueError for anything else."""
    try:
        extents = msgspec.json.decode(metadata.get(METADATA, "{}"), type=dict[str, Extent])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"metadata {METADATA!r} is no list of sizes") from error
    for name, each in extents.items():
        if len(extents) > LIMIT or not 1 <= each.low <= each.usual <= each.high or each.multiple < 1:
            raise ValueError(f"size {name!r} has the range {each}")
    return extents


def _number(size: int | str, sizes: Mapping[str, int]) -> int | str:
    """The dimension as a number, if its name is made of sizes; the batch keeps its name."""
    try:
        return resolve_dimension(size, sizes)
    except (KeyError, ValueError):
        return size


def _other_numbers(extent: Extent) -> Iterator[int]:
    """Numbers of the range that are not the usual one: its ends, and its middle."""
    steps = (extent.high - extent.low) // extent.multiple
    middle = extent.low + steps // 2 * extent.multiple
    yield from dict.fromkeys(value for value in (extent.low, middle, extent.high) if value != extent.usual)
