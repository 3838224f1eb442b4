"""Network arguments that are lists with one entry per row of the batch, all equal, such as the size of each image. They
may be arguments of a second network."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall
from fewstep.pipelines.relations.relations import Relations, same


def find_row_lists(found: Relations, base: CallRecord, larger: CallRecord) -> frozenset[str]:
    """Return the paths of those network arguments that are lists with one entry per row, all equal, in both recordings.
    `larger` has more samples."""
    first, other = (_row_lists(record.steps[0].calls[0], found.x) for record in (base, larger))
    return frozenset(first & other)


def shorten_lists(record: CallRecord, paths: Collection[str]) -> CallRecord:
    """Return the recording with the list at each of these paths shortened to one entry.

    A network that needs one entry per row of the batch then fails when samples are compared.
    """
    if not paths:
        return record
    steps = tuple(replace(step, calls=tuple(_shorten(call, paths) for call in step.calls)) for step in record.steps)
    return replace(record, steps=steps)


def _row_lists(call: NetworkCall, x: str) -> set[str]:
    """Return the paths of those arguments of a call that are lists with one entry per row, all equal."""
    rows = len(call.leaves[x])
    return {path for path, value in _values_by_path(call.arguments) if _has_equal_rows(value, rows)}


def _values_by_path(arguments: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each argument, and of those in a dict."""
    for name, value in arguments.items():
        path = f"{before}['{name}']"
        yield from _values_by_path(value, path) if isinstance(value, dict) else [(path, value)]


def _has_equal_rows(value: Any, rows: int) -> bool:
    if not isinstance(value, list) or len(value) != rows:
        return False
    first, structure = pytree.tree_flatten(value[0])
    others = (pytree.tree_flatten(item) for item in value[1:])
    return all(
        form == structure and all(same(one, other) for one, other in zip(first, leaves, strict=True))
        for leaves, form in others
    )


def _shorten(call: NetworkCall, paths: Collection[str]) -> NetworkCall:
    def shorten(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {name: shorten(inner, f"{path}['{name}']") for name, inner in value.items()}
        return value[:1] if path in paths else value

    flat, structure = pytree.tree_flatten_with_path(shorten(call.arguments, ""))
    return replace(call, leaves={pytree.keystr(path): leaf for path, leaf in flat}, structure=structure)
