"""Run the conditioner and the prologue before the first step, and deal their rows to the body's calls.

Samples often share their condition, and the unconditional branch is the same for all. The conditioner, such as an
observation encoder, runs once for each distinct condition, whatever the number of steps. The prologue runs once for
each distinct pair of time and condition. Each call of the body gets its rows when it comes, not all calls at once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import CONDITIONER, PROLOGUE, LoadedGraph, graph_of
from fewstep.runtime.bundle.reading import EXPORT_AGAIN, Bundle

Arrays = Mapping[str, NDArray[Any]]

TIME, TO = "\0time", "\0to"  # keys of the network's times among the conditions, which have visible names
PLACE = "\0place"  # key of a condition's number
TIMES: Mapping[str, str] = {"time": TIME, "to": TO}  # by role


def dealt_rows(
    bundle: Bundle,
    conditioner: LoadedGraph | None,
    prologue: LoadedGraph | None,
    blocks: Sequence[Arrays],
    wanted: Iterable[str],
) -> Callable[[int], dict[str, NDArray[Any]]]:
    """A function of a block's index that gives the rows `wanted` [N, ...] by name, for `blocks` of conditions and times
    [N, ...]."""
    manifest, wanted = bundle.manifest, frozenset(wanted)
    named = {each.input: each.name for each in manifest.conditions}
    graphs = [graph for graph in (manifest.conditioner, manifest.prologue) if graph is not None]
    taken = {named[each.name] for graph in graphs for each in graph.inputs if each.role == "condition"}
    values, places = _conditions(blocks, sorted(taken))
    count = len(next(iter(values.values()), "1"))
    conditioner_rows: dict[str, NDArray[Any]] = {}
    if conditioner is not None and manifest.conditioner is not None:
        fed = {each.name: values[named[each.name]] for each in manifest.conditioner.inputs}
        conditioner_rows = _run(conditioner, CONDITIONER, fed, count, bundle)
    prologue_rows: dict[str, NDArray[Any]] = {}
    pairs: list[NDArray[np.intp]] = places
    if prologue is not None and manifest.prologue is not None:
        times = {each.name: TIMES[each.role] for each in manifest.prologue.inputs if each.role in TIMES}
        distinct, pairs = _pairs(blocks, places, sorted(set(times.values())))
        condition = distinct[PLACE]
        fed = {name: distinct[key] for name, key in times.items()}
        for each in manifest.prologue.inputs:
            if each.name not in times:
                source = values[named[each.name]] if each.role == "condition" else conditioner_rows[each.name]
                fed[each.name] = source[condition]
        prologue_rows = _run(prologue, PROLOGUE, fed, len(condition), bundle)

    conditioner_rows, prologue_rows = (
        {name: each for name, each in outputs.items() if name in wanted}
        for outputs in (conditioner_rows, prologue_rows)
    )

    def rows(index: int) -> dict[str, NDArray[Any]]:
        place, pair = _in_order(places[index]), _in_order(pairs[index])
        of_condition = {name: row[place] for name, row in conditioner_rows.items()}
        return of_condition | {name: row[pair] for name, row in prologue_rows.items()}

    return rows


def _in_order(places: NDArray[np.intp]) -> NDArray[np.intp] | slice:
    """Places that follow one another, as a slice: it copies no rows, and a step may have dozens."""
    first, count = int(places[0]), len(places)
    is_in_order = count == 1 or bool((places == np.arange(first, first + count)).all())
    return slice(first, first + count) if is_in_order else places


def _run(network: LoadedGraph, name: str, fed: Arrays, count: int, bundle: Bundle) -> dict[str, NDArray[Any]]:
    """The outputs of the conditioner or the prologue, [count, ...] each."""
    outputs = network(fed)
    for each in graph_of(bundle, name).outputs:
        if each.name not in outputs or outputs[each.name].shape[:1] != (count,):
            raise UserError(f"{bundle.path}: the {name} makes no row {each.name!r} for each sample", EXPORT_AGAIN)
    return dict(outputs)


def _conditions(
    blocks: Sequence[Arrays], names: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], list[NDArray[np.intp]]]:
    """Distinct conditions [C, ...], and for each block the place of each of its samples among them.

    The steps of a plan bring the same arrays, which may be pictures: those are looked at once.
    """
    first: dict[tuple[int, ...], int] = {}
    numbers = [first.setdefault(tuple(id(block[name]) for name in names), at) for at, block in enumerate(blocks)]
    apart = sorted(set(numbers))
    sizes = [len(blocks[at][TIME]) for at in apart]
    if not names:
        return {}, [np.zeros(len(block[TIME]), np.intp) for block in blocks]
    values, place = _distinct({name: np.concatenate([blocks[at][name] for at in apart]) for name in names})
    by_block = dict(zip(apart, _split(place, sizes), strict=True))
    return values, [by_block[number] for number in numbers]


def _pairs(
    blocks: Sequence[Arrays], places: Sequence[NDArray[np.intp]], times: Iterable[str]
) -> tuple[dict[str, NDArray[Any]], list[NDArray[np.intp]]]:
    """Distinct pairs of `times` and a condition's place, and for each block the place of each sample among them."""
    joined = {key: np.concatenate([block[key] for block in blocks]) for key in times}
    distinct, place = _distinct({**joined, PLACE: np.concatenate(places)})
    return distinct, _split(place, [len(each) for each in places])


def _split(place: NDArray[np.intp], sizes: Sequence[int]) -> list[NDArray[np.intp]]:
    return [place[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]


def _distinct(values: Arrays) -> tuple[dict[str, NDArray[Any]], NDArray[np.intp]]:
    """The distinct rows over all arrays [N, ...] together -> [U, ...], and for each of the N its place among them."""
    count = len(next(iter(values.values())))
    contents = [(content := array.tobytes(), len(content) // count) for array in values.values()]
    rows = [b"".join([content[at * size : (at + 1) * size] for content, size in contents]) for at in range(count)]
    first = dict(zip(reversed(rows), range(count - 1, -1, -1), strict=True))
    number = {row: place for place, row in enumerate(sorted(first))}
    taken = [first[row] for row in number]
    return {name: array[taken] for name, array in values.items()}, np.array([number[row] for row in rows], np.intp)
