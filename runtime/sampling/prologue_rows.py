"""The rows of the conditioner and the prologue: computed before the first step, and gathered for each call of the body.

Samples often share their condition, and all share the unconditional branch. The conditioner, such as an observation
encoder, runs once for each distinct condition, whatever the number of steps. The prologue runs once for each distinct
pair of time and condition. Rows are gathered only when the body is called, which saves memory.

The conditioner's rows of a few conditions are cached: it does not run again for bitwise identical conditions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import CONDITIONER, PROLOGUE, Arrays, LoadedGraph, find_graph
from fewstep.runtime.bundle.reading import EXPORT_AGAIN, Bundle

TIME, TO = "\0time", "\0to"  # keys of the network's times; the names of conditions do not begin so
IN_CONDITIONER, IN_PROLOGUE = "\0place", "\0own"  # keys of the indexes of distinct conditions that each one takes
AT_ONCE = 2**24  # bytes of conditioner rows that one call of the prologue takes: they repeat for each time
FEW = 4  # conditions whose rows are cached: enough for an observation and its branches, not for a batch of prompts
TIMES: Mapping[str, str] = {"time": TIME, "to": TO}  # by role


def make_row_source(
    bundle: Bundle,
    conditioner: LoadedGraph | None,
    prologue: LoadedGraph | None,
    blocks: Sequence[Arrays],
    wanted: Iterable[str],
    last: "RowCache",
) -> Callable[[int], dict[str, NDArray[Any]]]:
    """Return a function from a block's index to the rows `wanted` [N, ...] by name.

    `blocks` are conditions and times [N, ...]. `last` caches the conditioner's rows; this call reads and updates it.
    """
    manifest, wanted = bundle.manifest, frozenset(wanted)
    named = {each.input: each.name for each in manifest.conditions}
    conditioner_rows: dict[str, NDArray[Any]] = {}
    places, pairs = ([np.zeros(len(block[TIME]), np.intp) for block in blocks] for _ in range(2))
    if conditioner is not None and manifest.conditioner is not None:
        values, places = _distinct_conditions(blocks, sorted(named[each.name] for each in manifest.conditioner.inputs))
        fed = {each.name: values[named[each.name]] for each in manifest.conditioner.inputs}
        count = len(next(iter(fed.values()), "1"))
        conditioner_rows = last.rows(fed, count, lambda: _run_graph(conditioner, CONDITIONER, fed, count, bundle))
    prologue_rows: dict[str, NDArray[Any]] = {}
    if prologue is not None and manifest.prologue is not None:
        takes = manifest.prologue.inputs
        row_names = [each.name for each in takes if each.role == "row"]
        seen = {each.name: named[each.name] for each in takes if each.role == "condition"}
        times = {each.name: TIMES[each.role] for each in takes if each.role in TIMES}
        prologue_values, prologue_places = _distinct_conditions(blocks, sorted(seen.values()))
        keys = {IN_PROLOGUE: prologue_places} | ({IN_CONDITIONER: places} if row_names else {})
        distinct, pairs = _distinct_pairs(blocks, keys, sorted(set(times.values())))

        def rows_of(at: slice) -> dict[str, NDArray[Any]]:
            """Return the rows of some of the pairs."""
            fed = {name: distinct[key][at] for name, key in times.items()}
            fed |= {name: prologue_values[key][distinct[IN_PROLOGUE][at]] for name, key in seen.items()}
            fed |= {name: conditioner_rows[name][distinct[IN_CONDITIONER][at]] for name in row_names}
            return _run_graph(prologue, PROLOGUE, fed, len(distinct[IN_PROLOGUE][at]), bundle)

        taken = sum(conditioner_rows[name][0].nbytes for name in row_names)
        most = max(1, AT_ONCE // max(1, taken))
        parts = [rows_of(slice(start, start + most)) for start in range(0, len(distinct[IN_PROLOGUE]), most)]
        prologue_rows = parts[0]
        if len(parts) > 1:
            prologue_rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    conditioner_rows, prologue_rows = (
        {name: each for name, each in outputs.items() if name in wanted}
        for outputs in (conditioner_rows, prologue_rows)
    )

    def rows(index: int) -> dict[str, NDArray[Any]]:
        place, pair = _as_slice(places[index]), _as_slice(pairs[index])
        of_condition = {name: row[place] for name, row in conditioner_rows.items()}
        return of_condition | {name: row[pair] for name, row in prologue_rows.items()}

    return rows


class RowCache:
    """A cache of a conditioner's last rows, and of the few conditions [C, ...] that they were computed from."""

    def __init__(self) -> None:
        self._last: tuple[Arrays, dict[str, NDArray[Any]]] | None = None  # replaced as one value: threads share it

    def rows(self, fed: Arrays, count: int, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """Return the cached rows if `fed` is bitwise identical to their conditions, else the `count` rows of `make`.

        New rows are cached if there are at most FEW. The caller must not modify `fed` afterwards.
        """
        last = self._last
        if last is not None and all(_has_same_bits(last[0][name], array) for name, array in fed.items()):
            return last[1]
        last = self._last = None  # free the old rows before the new ones are computed
        rows = make()
        if count <= FEW:
            self._last = fed, rows
        return rows

    def forget(self) -> None:
        """Clear the cache, so that the next call runs the conditioner."""
        self._last = None


def _has_same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _as_slice(places: NDArray[np.intp]) -> NDArray[np.intp] | slice:
    """Return consecutive places as a slice, and others unchanged. Indexing with a slice does not copy rows."""
    first, count = int(places[0]), len(places)
    is_in_order = count == 1 or bool((places == np.arange(first, first + count)).all())
    return slice(first, first + count) if is_in_order else places


def _run_graph(graph: LoadedGraph, name: str, fed: Arrays, count: int, bundle: Bundle) -> dict[str, NDArray[Any]]:
    """Run the conditioner or the prologue, and return its outputs [count, ...]."""
    outputs = graph(fed)
    for each in find_graph(bundle, name).outputs:
        if each.name not in outputs or outputs[each.name].shape[:1] != (count,):
            what = f"{bundle.path}: the {name} does not return a row {each.name!r} for each sample"
            raise UserError(what, EXPORT_AGAIN)
    return dict(outputs)


def _distinct_conditions(
    blocks: Sequence[Arrays], names: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], list[NDArray[np.intp]]]:
    """Return the distinct conditions [C, ...], and for each block the index of each of its samples among them.

    The steps of a plan share their arrays, which may be images. Each array is compared only once.
    """
    first: dict[tuple[int, ...], int] = {}
    numbers = [first.setdefault(tuple(id(block[name]) for name in names), at) for at, block in enumerate(blocks)]
    apart = sorted(set(numbers))
    sizes = [len(blocks[at][TIME]) for at in apart]
    if not names:
        return {}, [np.zeros(len(block[TIME]), np.intp) for block in blocks]
    values, place = _distinct({name: np.concatenate([blocks[at][name] for at in apart]) for name in names})
    by_block = dict(zip(apart, _split_places(place, sizes), strict=True))
    return values, [by_block[number] for number in numbers]


def _distinct_pairs(
    blocks: Sequence[Arrays], places: Mapping[str, Sequence[NDArray[np.intp]]], times: Iterable[str]
) -> tuple[dict[str, NDArray[Any]], list[NDArray[np.intp]]]:
    """Return the distinct tuples of `times` and places, and for each block the index of each sample among them."""
    joined = {key: np.concatenate([block[key] for block in blocks]) for key in times}
    distinct, place = _distinct({**joined, **{key: np.concatenate(each) for key, each in places.items()}})
    return distinct, _split_places(place, [len(block[TIME]) for block in blocks])


def _split_places(place: NDArray[np.intp], sizes: Sequence[int]) -> list[NDArray[np.intp]]:
    return [place[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]


def _distinct(values: Arrays) -> tuple[dict[str, NDArray[Any]], NDArray[np.intp]]:
    """Return the distinct rows [U, ...] over all arrays [N, ...] together, and for each of N rows its index in them."""
    count = len(next(iter(values.values())))
    contents = [(content := array.tobytes(), len(content) // count) for array in values.values()]
    rows = [b"".join([content[at * size : (at + 1) * size] for content, size in contents]) for at in range(count)]
    first = dict(zip(reversed(rows), range(count - 1, -1, -1), strict=True))
    number = {row: place for place, row in enumerate(sorted(first))}
    taken = [first[row] for row in number]
    return {name: array[taken] for name, array in values.items()}, np.array([number[row] for row in rows], np.intp)
