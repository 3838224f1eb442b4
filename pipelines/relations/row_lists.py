"""Network arguments that are lists with one entry per row of the batch, all equal, such as the size of each image."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall
from fewstep.pipelines.relations.relations import Relations, same


def find_row_lists(found: Relations, base: CallRecord, larger: CallRecord) -> frozenset[str]:
    """Return the names of those network arguments that are lists with one entry per row, all equal, in both recordings.
    `larger` has more samples."""
    first, other = (_row_lists(record.steps[0].calls[0], found.x) for record in (base, larger))
    return frozenset(first & other)


def shorten_lists(record: CallRecord, names: Collection[str]) -> CallRecord:
    """Return the recording with each of these lists shortened to one entry.

    A network that needs one entry per row of the batch then fails when samples are compared.
    """
    if not names:
        return record
    steps = tuple(replace(step, calls=tuple(_shorten(call, names) for call in step.calls)) for step in record.steps)
    return replace(record, steps=steps)


def _row_lists(call: NetworkCall, x: str) -> set[str]:
    """Return the names of those arguments of a call that are lists with one entry per row, all equal."""
    rows = len(call.leaves[x])
    return {name for name, value in call.arguments.items() if _has_equal_rows(value, rows)}


def _has_equal_rows(value: Any, rows: int) -> bool:
    if not isinstance(value, list) or len(value) != rows:
        return False
    first, structure = pytree.tree_flatten(value[0])
    others = (pytree.tree_flatten(item) for item in value[1:])
    return all(
        form == structure and all(same(one, other) for one, other in zip(first, leaves, strict=True))
        for leaves, form in others
    )


def _shorten(call: NetworkCall, names: Collection[str]) -> NetworkCall:
    shorter = {name: value[:1] if name in names else value for name, value in call.arguments.items()}
    flat, structure = pytree.tree_flatten_with_path(shorter)
    return replace(call, leaves={pytree.keystr(path): leaf for path, leaf in flat}, structure=structure)
