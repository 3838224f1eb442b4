"""Networks that get latents as tokens, in recordings that are written by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, SchedulerStep
from fewstep.pipelines.recording.form import X
from fewstep.pipelines.recording.packed_form import PackedForm, find_packed_forms
from fewstep.pipelines.recording.packing import Packing
from tests.refusals import refuses

PACKING = Packing((3, 4, 6), (2, 2), True)  # 6 tokens of 12 numbers
PATH = "['tokens']"
Feed = Callable[[Tensor], Tensor]


class Doubling(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return 2 * tokens


def alone(tokens: Tensor) -> Tensor:
    return tokens


def before_picture(tokens: Tensor) -> Tensor:
    return torch.cat([tokens, torch.full_like(tokens[:, :2], 7.0)], dim=1)


def after_picture(tokens: Tensor) -> Tensor:
    return torch.cat([torch.full_like(tokens[:, :2], 7.0), tokens], dim=1)


def beside_picture(tokens: Tensor) -> Tensor:
    return torch.cat([tokens, torch.full_like(tokens[..., :4], 7.0)], dim=2)


def record(seed: int, feed: Feed) -> CallRecord:
    x = torch.randn(1, *PACKING.shape, generator=torch.Generator().manual_seed(seed))
    arguments = {"tokens": feed(PACKING.pack(x))}
    flat, structure = pytree.tree_flatten_with_path(arguments)
    call = NetworkCall("net", {pytree.keystr(path): leaf for path, leaf in flat}, structure, 2 * arguments["tokens"])
    return CallRecord((SchedulerStep((call,), 2 * x, 900.0, x, x),))


def forms(feed: Feed) -> list[PackedForm]:
    return list(find_packed_forms(PACKING, record(0, feed), record(1, feed)))


@pytest.mark.parametrize("feed, at_end", [(alone, False), (before_picture, False), (after_picture, True)])
def test_a_call_is_rewritten_to_latents(feed: Feed, at_end: bool) -> None:
    form = forms(feed)[at_end]
    ((step,), x) = form.rewrite("it", record(0, feed)).steps, record(0, feed).steps[0].sample
    assert torch.equal(step.calls[0].arguments[X], x) and torch.equal(step.calls[0].output, 2 * x)


@pytest.mark.parametrize("feed, at_end", [(alone, False), (before_picture, False), (after_picture, True)])
def test_a_network_runs_on_latents_of_any_size(feed: Feed, at_end: bool) -> None:
    form = forms(feed)[at_end]
    arguments = form.rewrite("it", record(0, feed)).steps[0].calls[0].arguments
    x = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(2))
    parts = {name: value.expand(2, *value.shape[1:]) for name, value in arguments.items() if " x in " in name}
    given: dict[str, Any] = {**arguments, **parts, X: x}
    assert torch.equal(form(Doubling(), given), 2 * x)


def test_channels_beside_x_are_a_picture_of_its_size() -> None:
    form = forms(beside_picture)[0]
    arguments = form.rewrite("it", record(0, beside_picture)).steps[0].calls[0].arguments
    assert arguments[f"after x in {PATH}"].shape == (1, 1, 4, 6)


def test_an_argument_of_another_shape_is_refused() -> None:
    with refuses("passes ['tokens'] to its network with a different type or shape"):
        forms(alone)[0].rewrite("it", record(0, before_picture))


def test_no_form_is_found_without_tokens_of_x() -> None:
    assert forms(lambda tokens: tokens.flip(1) + 1) == []
