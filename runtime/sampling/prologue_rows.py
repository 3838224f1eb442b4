"""The outputs of conditioner and prologue (rows): computed before the first step, and gathered for each call of the
body.

Samples often share their condition, and all share the unconditional branch. The conditioner, such as an observation
encoder, runs once for each distinct condition, whatever the number of steps. The prologue runs once for each distinct
pair of time and condition. Rows are gathered only when the body is called, which saves memory.

The last rows of the conditioner are cached if they belong to few conditions, so it does not run again for bitwise
identical conditions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import CONDITIONER, PROLOGUE, Arrays, LoadedGraph
from fewstep.runtime.bundle.reading import Bundle

TIME, TO = "\0time", "\0to"  # keys of the network's times, which no name of a condition equals
IN_CONDITIONER, IN_PROLOGUE = "\0place", "\0own"  # keys of the indexes of distinct conditions that each one takes
AT_ONCE = 2**24  # bytes of the conditioner's rows in one call of the prologue, where they are repeated for each time
FEW = 4  # conditions whose rows are cached: enough for an observation and its branches, not for a batch of prompts
TIMES: Mapping[str, str] = {"time": TIME, "to": TO}  # by role

Rows = dict[str, NDArray[Any]]
Index = NDArray[np.intp] | slice  # selects some rows
Pairs = tuple[Rows, Sequence[Index]]  # distinct times and places, and where those of each block are


def make_row_source(
    bundle: Bundle,
    conditioner: LoadedGraph | None,
    prologue: LoadedGraph | None,
    blocks: "Blocks",
    wanted: Iterable[str],
    last: "RowCache",
    last_pairs: "PairCache",
) -> "Callable[[int], Rows]":
    """Return a function from a block's index to the rows `wanted` [N, ...] by name. `last` caches the conditioner's
    rows. `last_pairs` caches the pairs of time and condition of blocks with the same times. This call reads and updates
    both.
    """
    manifest, wanted = bundle.manifest, frozenset(wanted)
    named = {condition.input: condition.name for condition in manifest.conditions}
    conditioner_rows: dict[str, NDArray[Any]] = {}
    places = Places([], [])
    pairs: Sequence[Index] = ()
    if conditioner is not None and manifest.conditioner is not None:
        values, places = _distinct_conditions(blocks, sorted(named[port.name] for port in manifest.conditioner.inputs))
        fed = {port.name: values[named[port.name]] for port in manifest.conditioner.inputs}
        count = len(next(iter(fed.values()), "1"))
        conditioner_rows = last.rows(fed, count, lambda: _run_graph(conditioner, CONDITIONER, fed, count, bundle))
    prologue_rows: dict[str, NDArray[Any]] = {}
    if prologue is not None and manifest.prologue is not None:
        takes = manifest.prologue.inputs
        row_names = [condition.name for condition in takes if condition.role == "row"]
        seen = {condition.name: named[condition.name] for condition in takes if condition.role == "condition"}
        times = {condition.name: TIMES[condition.role] for condition in takes if condition.role in TIMES}
        prologue_values, prologue_places = _distinct_conditions(blocks, sorted(seen.values()))
        keys = {IN_PROLOGUE: prologue_places} | ({IN_CONDITIONER: places} if row_names else {})
        distinct, pairs = last_pairs.pairs(keys, lambda: _distinct_pairs(blocks, keys, sorted(set(times.values()))))

        def rows_of(at: slice) -> Rows:
            """Return the prologue's outputs for a slice of the distinct combinations of its inputs: times, conditions
            and conditioner outputs."""
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

    def rows(index: int) -> Rows:
        pair = pairs[index] if prologue_rows else slice(0)
        made = {name: row[pair] for name, row in prologue_rows.items()}
        if conditioner_rows:
            place = _as_slice(places.of_block(index))
            made.update({name: row[place] for name, row in conditioner_rows.items()})
        return made

    return rows


class Blocks(NamedTuple):
    """The conditions and times of a network's calls, one block per call.

    conditions: by name, arrays [N, ...] for each tuple of branches. Blocks share the arrays, which may be images.
    places: for each block, the index of its conditions. times: for each block, arrays [N, ...] by TIME and TO.
    """

    conditions: Sequence[Arrays]
    places: Sequence[int]
    times: Sequence[Arrays]

    def value(self, index: int, key: str) -> NDArray[Any]:
        """Return a block's condition or time."""
        return self.times[index][key] if key in (TIME, TO) else self.conditions[self.places[index]][key]

    @property
    def counts(self) -> list[int]:
        """The number of rows N for each tuple of branches."""
        return [len(self.times[self.places.index(place)][TIME]) for place in range(len(self.conditions))]


class Places(NamedTuple):
    """The indexes of the samples of each block among the distinct conditions.

    by_branches: the indexes [N] for each tuple of branches. places: for each block, the index of its tuple.
    """

    by_branches: Sequence[NDArray[np.intp]]
    places: Sequence[int]

    def of_block(self, index: int) -> NDArray[np.intp]:
        return self.by_branches[self.places[index]]


class PairCache:
    """A cache of the last distinct pairs of time and condition, for calls whose blocks have the same times, as for one
    plan and one number of samples. The pairs depend on which samples share a condition, not on the condition's values.
    """

    def __init__(self) -> None:
        self._last: tuple[object, Pairs] | None = None  # replaced as one value: threads share it

    def pairs(self, places: Mapping[str, Places], make: "Callable[[], Pairs]") -> "Pairs":
        """Return what `make` returned for the same places in the previous call, and otherwise call `make`. The caller
        must not modify the result."""
        key = [(name, [at.tobytes() for at in place.by_branches]) for name, place in places.items()]
        last = self._last
        if last is None or last[0] != key:
            last = self._last = key, make()
        return last[1]


class RowCache:
    """A cache of a conditioner's last rows, and of the few conditions [C, ...] that they were computed from."""

    def __init__(self) -> None:
        self._last: tuple[Arrays, dict[str, NDArray[Any]]] | None = None  # replaced as one value: threads share it

    def rows(self, fed: Arrays, count: int, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """Return the cached rows if `fed`, the conditions, is bitwise identical to those of the cached rows. Otherwise
        call `make`, which returns `count` new rows.

        New rows are cached if there are at most FEW. The caller must not modify `fed` afterwards.
        """
        last = self._last
        if last is not None and all(_has_same_bits(last[0][name], array) for name, array in fed.items()):
            return last[1]
        last = self._last = None  # frees the old rows before the new ones are computed
        rows = make()
        if count <= FEW:
            self._last = fed, rows
        return rows

    def forget(self) -> None:
        """Clear the cache, so that the next call runs the conditioner."""
        self._last = None


def _has_same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _as_slice(places: NDArray[np.intp]) -> Index:
    """Return consecutive indexes as a slice, and any others unchanged. Indexing with a slice does not copy rows."""
    first, count = int(places[0]), len(places)
    is_in_order = count == 1 or bool((places == np.arange(first, first + count)).all())
    return slice(first, first + count) if is_in_order else places


def _run_graph(graph: LoadedGraph, name: str, fed: Arrays, count: int, bundle: Bundle) -> dict[str, NDArray[Any]]:
    """Run the conditioner or the prologue, and return its outputs [count, ...]."""
    outputs = graph(fed)
    entry = bundle.manifest.conditioner if name == CONDITIONER else bundle.manifest.prologue
    assert entry is not None, "a graph that was loaded has an entry"
    for output in entry.outputs:
        row = outputs.get(output.name)
        if row is None or not row.ndim or len(row) != count:
            what = f"{bundle.path}: the {name} does not return a row {output.name!r} for each sample"
            raise UserError(what, bundle.export_again)
    return dict(outputs)


def _distinct_conditions(blocks: Blocks, names: Sequence[str]) -> tuple[Rows, Places]:
    """Return the distinct conditions [C, ...], and for each block the index of each of its samples among them."""
    counts = blocks.counts
    if not names:
        return {}, Places([np.zeros(count, np.intp) for count in counts], blocks.places)
    values, place = _distinct(
        {name: _concatenate([condition[name] for condition in blocks.conditions]) for name in names}
    )
    return values, Places(_split_places(place, counts), blocks.places)


def _distinct_pairs(blocks: Blocks, places: Mapping[str, Places], times: Iterable[str]) -> Pairs:
    """Find the distinct combinations of times and condition rows among all samples of all blocks. Return them, and for
    each block the index of each sample's combination."""
    joined = {key: np.concatenate([time[key] for time in blocks.times]) for key in times}
    count = len(blocks.times)
    indexes = {key: np.concatenate([each.of_block(at) for at in range(count)]) for key, each in places.items()}
    distinct, place = _distinct({**joined, **indexes})
    return distinct, [_as_slice(places) for places in _split_places(place, [len(time[TIME]) for time in blocks.times])]


def _concatenate(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _split_places(place: NDArray[np.intp], sizes: Sequence[int]) -> list[NDArray[np.intp]]:
    return [place[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]


def _distinct(values: Arrays) -> tuple[dict[str, NDArray[Any]], NDArray[np.intp]]:
    """Find equal rows in arrays [N, ...] of one length; a row consists of the values of all arrays at one index. Return
    the arrays with the U distinct rows [U, ...], and for each of the N rows its index among them."""
    count = len(next(iter(values.values())))
    if count == 1:
        return dict(values), np.zeros(1, np.intp)
    contents = [(content := array.tobytes(), len(content) // count) for array in values.values()]
    rows = [b"".join([content[at * size : (at + 1) * size] for content, size in contents]) for at in range(count)]
    first = dict(zip(reversed(rows), range(count - 1, -1, -1), strict=True))
    number = {row: place for place, row in enumerate(sorted(first))}
    taken = [first[row] for row in number]
    return {name: array[taken] for name, array in values.items()}, np.array([number[row] for row in rows], np.intp)
