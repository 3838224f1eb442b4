"""Networks that get x in another form than the scheduler steps, in recordings that are written by hand."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, SchedulerStep
from fewstep.pipelines.recording.form import X
from fewstep.pipelines.recording.network_form import NetworkForm, find_forms
from fewstep.pipelines.recording.stand_ins import LengthError
from fewstep.pipelines.relations.relations import find_relations, gets_x
from tests.refusals import refuses

TIMES = (900.0, 500.0, 100.0)
SHAPES = ((3, 2, 4), (5, 2))  # of the tensors that a scheduler steps: frames of 3 channels, and tokens
ELEMENTS = 24 + 10

Feed = Callable[[list[Tensor]], dict[str, Any]]


def to_tokens(x: Tensor) -> Tensor:
    """Return tokens [rows, places, channels] of [rows, channels, ...]."""
    return x.flatten(2).transpose(1, 2)


class Network(nn.Module):
    """Returns tokens of frames and plain tokens, each multiplied by a number."""

    def forward(self, frames: Tensor, tokens: Tensor, **_: object) -> tuple[Tensor, Tensor]:
        return 2 * frames, 3 * tokens


def feed(tensors: list[Tensor]) -> dict[str, Any]:
    return {"frames": to_tokens(tensors[0]), "tokens": tensors[1]}


def feed_with_first(tensors: list[Tensor]) -> dict[str, Any]:
    """Two tokens of a given picture precede those of x."""
    tokens = to_tokens(tensors[0])
    return {"frames": torch.cat([torch.full_like(tokens[:, :2], 7.0), tokens], dim=1), "tokens": tensors[1]}


def record(seed: int, feed: Feed = feed, samples: int = 1) -> CallRecord:
    """Return three steps of a scheduler on each tensor, with one call of a network before each."""
    random = torch.Generator().manual_seed(seed)

    def draw(shapes: Iterable[Sequence[int]]) -> list[Tensor]:
        return [torch.randn(*shape, generator=random) for shape in shapes]

    states, steps = draw((samples, *shape) for shape in SHAPES), list[SchedulerStep]()
    for t in TIMES:
        arguments = {**feed(states), "timestep": torch.tensor([t] * samples)}
        flat, structure = pytree.tree_flatten_with_path(arguments)
        frames, tokens = draw(each.shape for each in Network()(**arguments))
        call = NetworkCall("net", {pytree.keystr(path): leaf for path, leaf in flat}, structure, frames, (tokens,))
        following = draw(each.shape for each in states)
        outputs = frames[:, -8:].transpose(1, 2).reshape(states[0].shape), tokens
        first, second = (
            SchedulerStep((call,), output, t, x, after)
            for output, x, after in zip(outputs, states, following, strict=True)
        )
        steps.append(first.join(second))
        states = following
    return CallRecord(tuple(steps))


def find(feed: Feed = feed) -> NetworkForm:
    return next(find_forms("Pipe", record(0, feed), record(1, feed)))


def test_two_tensors_are_one_flat_x() -> None:
    assert find().x_shape == (ELEMENTS,)


def test_a_rewritten_recording_gets_x_and_returns_it() -> None:
    form = find()
    base, other = (form.rewrite("Pipe", record(seed)) for seed in (0, 1))
    found = find_relations("Pipe", base, other)
    assert (found.x, found.combination.weights, found.times) == (
        "['x of the scheduler']",
        ((1.0,),) * 3,
        {"['timestep']": (1.0, 0.0)},
    )


def test_a_network_with_another_form_does_not_get_x() -> None:
    assert not gets_x(record(0)) and gets_x(find().rewrite("Pipe", record(0)))


@pytest.mark.parametrize("feed", [feed, feed_with_first])
def test_the_formed_network_gets_the_arguments_of_the_pipeline(feed: Feed) -> None:
    form, seen = find(feed), dict[str, Any]()

    class Spy(Network):
        def forward(self, **arguments: Any) -> tuple[Tensor, Tensor]:
            seen.update(arguments)
            return super().forward(**arguments)

    own = record(5, feed, samples=2)
    call = form.rewrite("Pipe", own).steps[0].calls[0]
    form(Spy(), call.arguments)
    expected = own.steps[0].calls[0].arguments
    assert all(torch.equal(seen[name], expected[name]) for name in ("frames", "tokens"))


def test_the_formed_network_returns_the_prediction_of_each_element() -> None:
    form = find(feed_with_first)
    call = form.rewrite("Pipe", record(5, feed_with_first)).steps[0].calls[0]
    output = form(Network(), call.arguments)
    scale = torch.cat([torch.full((24,), 2.0), torch.full((10,), 3.0)])
    assert torch.equal(output, scale * call.arguments[X])


def test_given_tokens_are_an_argument_of_their_own() -> None:
    form = find(feed_with_first)
    rest = form.rewrite("Pipe", record(0, feed_with_first)).steps[0].calls[0].arguments["around x in ['frames']"]
    assert rest.sum() == 7.0 * 2 * 3


def test_x_that_no_argument_has_in_full_has_no_form() -> None:
    def without_tokens(tensors: list[Tensor]) -> dict[str, Any]:
        return {"frames": to_tokens(tensors[0]), "tokens": torch.zeros(len(tensors[0]), 5, 2)}

    assert list(find_forms("Pipe", record(0, without_tokens), record(1, without_tokens))) == []


def test_another_form_in_a_later_recording_is_refused() -> None:
    with refuses(("Pipe passes ['frames']", "different type or shape")):
        find().rewrite("Pipe", record(2, feed_with_first))


def test_x_that_an_argument_repeats_with_other_values_is_refused() -> None:
    def feed_twice(tensors: list[Tensor], factor: float = 1.0) -> dict[str, Any]:
        return {**feed(tensors), "copy": factor * tensors[1]}

    with refuses(("passes x to its network twice", "['copy']")):
        find(feed_twice).rewrite("Pipe", record(2, lambda tensors: feed_twice(tensors, 2.0)))


def record_lists(seed: int, length: int = 4) -> CallRecord:
    """Return a step on x [2, 3, 2, 2] of a network that gets lists of its rows and of their texts."""
    random = torch.Generator().manual_seed(seed)
    x, output = (torch.randn(2, 3, 2, 2, generator=random) for _ in range(2))
    texts = [torch.ones(4, 6), torch.ones(length, 6)]
    flat, structure = pytree.tree_flatten_with_path({"rows": list(x[:, :, None]), "texts": texts, "layers": [1, 2]})
    leaves = {pytree.keystr(path): leaf for path, leaf in flat}
    call = NetworkCall("net", leaves, structure, output[:, :, None], is_list=True)
    return CallRecord((SchedulerStep((call,), output, 1.0, x, x),))


def test_lists_with_a_tensor_for_each_row_are_stacked() -> None:
    form = next(find_forms("Pipe", record_lists(0), record_lists(1)))
    arguments = form.rewrite("Pipe", record_lists(2)).steps[0].calls[0].arguments
    assert form.lists == ("rows", "texts") and arguments["texts"].shape == (2, 4, 6)
    assert torch.equal(arguments[X], record_lists(2).steps[0].sample)


def test_a_list_of_texts_of_different_lengths_is_refused() -> None:
    with pytest.raises(LengthError, match="tensors of different shapes to its network in the list texts"):
        list(find_forms("Pipe", record_lists(0, length=3), record_lists(1, length=3)))
