"""Axes of a network's arguments that have the number of tokens of a text, found by their sizes in recordings with texts
of several lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.runtime.bundle.manifest import Size

TOKENS = "tokens"  # the name of a length
Lengths = tuple[tuple[int, ...], ...]  # of each branch in each recording


@dataclass(frozen=True)
class TextLengths:
    """The free lengths of a network's arguments. `sizes` are their ranges. `axes` are the axes of one row that follow
    them, by the path of the argument. `positions` are arguments that count the tokens from 0, or have zeros for each,
    by path, with the size that is the length of their first axis."""

    sizes: tuple[Size, ...]
    axes: Mapping[str, Mapping[int, str]]
    positions: Mapping[str, str]


def find_lengths(name: str, values: Mapping[str, Sequence[Sequence[Tensor]]], rows: Mapping[str, int]) -> TextLengths:
    """Find the axes whose sizes differ between recordings.

    values: for each argument, its values in each branch of each recording. rows: the arguments with rows, which are not
        among the axes. Raises UserError for arguments of other lengths than those with rows.
    """
    known: dict[Lengths, str] = {}
    axes: dict[str, dict[int, str]] = {}
    for path in rows:
        for axis, lengths in _free_axes(values.get(path, ())).items():
            size = known.setdefault(lengths, f"{TOKENS}_{len(known) + 1}" if known else TOKENS)
            axes.setdefault(path, {})[axis] = size
    positions: dict[str, str] = {}
    for path, own in values.items():
        if path in rows or len({value.shape for branches in own for value in branches}) < 2:
            continue
        counted = tuple(tuple(len(value) if value.dim() else 0 for value in branches) for branches in own)
        if counted not in known or not _are_positions([value for branches in own for value in branches]):
            raise recording_error(
                f"{name}: the shape of the network's argument {path} follows the length of the prompt"
            )
        positions[path] = known[counted]
    return TextLengths(tuple(_size_of(size, lengths) for lengths, size in known.items()), axes, positions)


def _free_axes(values: Sequence[Sequence[Tensor]]) -> dict[int, Lengths]:
    """Return the axes of a row whose sizes differ, with their sizes in each branch of each recording."""
    shapes = [[tuple(value.shape[1:]) for value in branches] for branches in values]
    first = shapes[0][0] if shapes and shapes[0] else ()
    if any(len(shape) != len(first) for branches in shapes for shape in branches):
        return {}
    sizes = {axis: tuple(tuple(shape[axis] for shape in each) for each in shapes) for axis in range(len(first))}
    return {axis: own for axis, own in sizes.items() if len({size for lengths in own for size in lengths}) > 1}


def _are_positions(values: Sequence[Tensor]) -> bool:
    """Return True if all values count from 0, or all are zeros that differ in their first axis only."""
    are_counts = all(value.dim() == 1 and torch.equal(value, torch.arange(len(value)).to(value)) for value in values)
    return are_counts or (all(map(is_zeros, values)) and len({value.shape[1:] for value in values}) == 1)


def is_zeros(value: Tensor) -> bool:
    return value.dim() > 0 and not bool(value.any())


def _size_of(name: str, lengths: Lengths) -> Size:
    seen = {length for branches in lengths for length in branches}
    is_shared = all(len(length) > 1 and len(set(length)) == 1 for length in lengths)
    return Size(name, None, max(1, min(seen)), max(seen), of_prompt=is_shared)
