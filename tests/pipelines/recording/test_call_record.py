"""Recorded calls with lists of tensors of different shapes become a call for each branch; arguments have names."""

import inspect

import torch
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import (
    CallRecord,
    NetworkCall,
    SchedulerStep,
    bind_arguments,
    split_ragged,
)
from tests.refusals import refuses


def record_of(*lengths: int, samples: int = 1) -> CallRecord:
    """A step with a call of texts of these lengths, one for each row, and a time for each row."""
    texts = [torch.full((length, 2), float(row)) for row, length in enumerate(lengths)]
    arguments = {"text": texts, "time": torch.arange(len(lengths)), "scale": 2.0}
    flat, structure = pytree.tree_flatten_with_path(arguments)
    leaves = {pytree.keystr(path): leaf for path, leaf in flat}
    output = torch.arange(len(lengths), dtype=torch.float32)[:, None]
    call = NetworkCall("network", leaves, structure, output, is_list=True)
    x = torch.zeros(samples, 1)
    return CallRecord((SchedulerStep((call,), x, 0.0, x, x),))


def test_texts_of_different_lengths_are_calls_of_their_own() -> None:
    first, second = split_ragged(record_of(5, 3)).steps[0].calls
    assert [len(call.arguments["text"][0]) for call in (first, second)] == [5, 3]
    assert (second.arguments["time"].tolist(), second.output.tolist()) == ([1], [[1.0]])


def test_each_call_has_all_samples_of_its_branch() -> None:
    calls = split_ragged(record_of(5, 5, 3, 3, samples=2)).steps[0].calls
    assert [[len(text) for text in call.arguments["text"]] for call in calls] == [[5, 5], [3, 3]]


def test_texts_of_one_length_stay_one_call() -> None:
    assert len(split_ragged(record_of(5, 5)).steps[0].calls) == 1


def test_arguments_of_a_decorator_without_names_are_refused() -> None:
    def run(*args: object, **kwargs: object) -> None:
        """As a decorator that does not use functools.wraps makes of each forward."""

    with refuses("takes *args, arguments without names", "give each a name"):
        bind_arguments(inspect.signature(run), (torch.zeros(1),), {"label": 1})
