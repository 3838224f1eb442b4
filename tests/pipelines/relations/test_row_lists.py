"""Lists with an equal entry for each row of x."""

from typing import Any

import torch
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, SchedulerStep
from fewstep.pipelines.recording.element_map import boxes
from fewstep.pipelines.relations.combination import Combination
from fewstep.pipelines.relations.relations import Relations
from fewstep.pipelines.relations.row_lists import find_row_lists, shorten_lists

FOUND = Relations("net", "['x']", {}, Combination(boxes((1,), (1,))[0], ((1.0,),), 1))


def recording(rows: int, **arguments: Any) -> CallRecord:
    x = torch.zeros(rows, 3)
    flat, structure = pytree.tree_flatten_with_path({"x": x, **arguments})
    call = NetworkCall("net", {pytree.keystr(path): leaf for path, leaf in flat}, structure, x)
    return CallRecord((SchedulerStep((call,), x, 1.0, x, x),))


def paths(base: CallRecord, larger: CallRecord) -> list[str]:
    names = find_row_lists(FOUND, base, larger)
    first, second = (list(shorten_lists(each, names).steps[0].calls[0].leaves) for each in (base, larger))
    assert first == second
    return first


def test_a_list_that_grows_with_the_batch_keeps_one_entry() -> None:
    base, larger = (recording(rows, sizes=[[(1, 4, 4)]] * rows) for rows in (2, 3))
    assert paths(base, larger) == ["['x']", *(f"['sizes'][0][0][{number}]" for number in range(3))]


def test_a_list_of_a_second_network_keeps_one_entry() -> None:
    base, larger = (recording(rows, **{"inputs of control": {"sizes": [4] * rows}}) for rows in (2, 3))
    assert paths(base, larger) == ["['x']", "['inputs of control']['sizes'][0]"]


def test_a_list_of_fixed_length_is_kept() -> None:
    base, larger = (recording(rows, layers=[7, 7]) for rows in (2, 3))
    assert paths(base, larger) == ["['x']", "['layers'][0]", "['layers'][1]"]


def test_a_list_with_other_entries_for_some_rows_is_kept() -> None:
    base, larger = recording(2, sizes=[4, 8]), recording(3, sizes=[4, 8, 8])
    assert find_row_lists(FOUND, base, larger) == frozenset()
