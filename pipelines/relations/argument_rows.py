"""The rows of a network's arguments: one for each sample and branch, along the first or the second axis."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, SchedulerStep, select_rows
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.pipelines.relations.relations import Relations, branch_calls


def rows_first(call: NetworkCall, relations: Relations) -> dict[str, Any]:
    """Return a call's arguments by path, each with its rows along the first axis."""
    return {path: leaf.movedim(1, 0) if path in relations.second_axes else leaf for path, leaf in call.leaves.items()}


def branch_values(step: SchedulerStep, found: Relations, path: str, repeats: int) -> Iterator[Any]:
    """Yield each branch's value of an argument: its rows, without their repetitions, or else the argument."""
    for call, branch in branch_calls(step, found.x):
        value = rows_first(call, found).get(path)
        if repeats and isinstance(value, Tensor):
            value = select_rows(value, branch, len(step.sample) * repeats)[::repeats]
        yield value


def find_repeats(name: str, found: Relations, base: CallRecord, larger: CallRecord | None) -> dict[str, int]:
    """Return, for each argument with rows, how many rows it has per row of x: 1, or more if these are equal, such as
    for a text that is repeated for each frame. Raises UserError for an argument whose shape depends on the number of
    samples in another way.

    larger: a recording with more samples; without one, an argument with as many rows as x is assumed to have one for
        each, and a vector of more equal elements to have none, such as a weight for each layer (Wan VACE).
    """
    first = base.steps[0].calls[0]
    other = first if larger is None else larger.steps[0].calls[0]
    rows, more = len(first.leaves[found.x]), len(other.leaves[found.x])
    leaves, larger_leaves = rows_first(first, found), rows_first(other, found)
    repeats = {}
    for path, value in leaves.items():
        grown = larger_leaves.get(path)
        if path in (found.x, *found.times) or not isinstance(value, Tensor) or not isinstance(grown, Tensor):
            continue
        count = len(value) // rows if value.dim() and grown.dim() else 0
        if larger is None and value.dim() == 1 and count > 1:
            continue
        if count and (len(value), len(grown)) == (rows * count, more * count) and _recur(grown, count):
            repeats[path] = count
        elif value.shape != grown.shape:
            what = f"its shape is {tuple(value.shape)} for {rows} rows of x, and {tuple(grown.shape)} for {more}"
            raise recording_error(f"{name}: the network's argument {path} does not grow with the rows of x: {what}")
    return repeats


def find_second_axes(found: Relations, base: CallRecord, larger: CallRecord) -> frozenset[str]:
    """Return the arguments that have a row for each row of x along their second axis. `larger` has more samples."""
    first, other = base.steps[0].calls[0].leaves, larger.steps[0].calls[0].leaves
    rows, more = len(first[found.x]), len(other[found.x])

    def has_rows(value: Any, grown: Any) -> bool:
        if not (isinstance(value, Tensor) and isinstance(grown, Tensor)) or min(value.dim(), grown.dim()) < 2:
            return False
        others = (value.shape[:1] + value.shape[2:], grown.shape[:1] + grown.shape[2:])
        return others[0] == others[1] and (value.shape[1], grown.shape[1]) == (rows, more)

    paths = (path for path in first if path not in (found.x, *found.times))
    return frozenset(path for path in paths if has_rows(first[path], other.get(path)))


def _recur(value: Tensor, count: int) -> bool:
    """Return True if the rows of a tensor are equal in consecutive groups of `count`."""
    return bool(torch.equal(value, value[::count].repeat_interleave(count, dim=0)))
