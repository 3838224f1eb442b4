"""A recorded network gets the inputs that its pipeline passes, and its graph keeps a free batch."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fewstep.export.tracing.capture import capture
from fewstep.graph.session import run
from fewstep.pipelines.recording.element_map import AROUND
from fewstep.pipelines.recording.network_form import find_forms
from fewstep.pipelines.relations.adapter import RecordedNetwork
from fewstep.pipelines.relations.arguments import Argument, NetworkArguments
from fewstep.pipelines.relations.relations import find_relations
from fewstep.runtime.bundle.manifest import Condition
from tests.pipelines.relations.test_relations import in_frames

SAMPLE, TIME, WIDTH, LAYERS = (f"['{name}']" for name in ("sample", "timestep", "width", "layers"))


class Network(nn.Module):
    """Adds times, and the rows of its layers, to the first channels of a video."""

    def forward(self, sample: Tensor, timestep: Tensor, width: int, layers: Tensor | None = None) -> Tensor:
        own, all_frames = timestep[:, None, :, None], timestep.mean(1)[:, None, None, None]
        x = sample[:, :4] + own + all_frames + sample[:, 4:].mean(1, keepdim=True)
        return x if layers is None else x + layers.sum(0)[:, None, None, None]


def record_frames(*, has_layers: bool = False) -> tuple[RecordedNetwork, dict[str, Tensor]]:
    """The adapter of a recording with a given first frame of time 3, and the arguments of its last call."""
    records = [in_frames(seed, still=3.0) for seed in (0, 1)]
    form = next(find_forms("Pipe", *records))
    base, other = (form.rewrite("Pipe", one_record) for one_record in records)
    relations, (call,) = find_relations("Pipe", base, other), base.steps[-1].calls
    around = f'["{AROUND}{SAMPLE}"]'
    arguments = {
        SAMPLE: Argument(SAMPLE, call.leaves[SAMPLE]),
        WIDTH: Argument(WIDTH, 3),
        around: Argument(around, call.leaves[around][:1], 1),
    }
    paths, structure = tuple(call.leaves), call.structure
    if has_layers:
        names = [path[2:-2] for path in paths]
        _, structure = torch.utils._pytree.tree_flatten(dict.fromkeys([*names, "layers"], 0))
        paths, arguments = (*paths, LAYERS), arguments | {LAYERS: Argument(LAYERS, torch.tensor([[1.0, 10.0]]), 1)}
        relations = replace(relations, second_axes=frozenset([LAYERS]))
    sorted_ones = NetworkArguments(paths, structure, arguments, {}, 0, None, {TIME: (6,)})
    return RecordedNetwork(Network(), relations, sorted_ones, form=form), records[0].steps[-1].calls[0].leaves


def test_x_has_its_place_and_a_given_frame_its_time() -> None:
    adapter, leaves = record_frames()
    x, time = leaves[SAMPLE][:1, :4, 1:], leaves[TIME][:1, 1]
    expected = Network()(leaves[SAMPLE][:1], leaves[TIME][:1], 3)[:, :, 1:]
    torch.testing.assert_close(adapter(x, time), expected, rtol=0, atol=0)


def test_the_graph_has_the_same_values_for_more_samples() -> None:
    adapter, leaves = record_frames(has_layers=True)
    x, time = leaves[SAMPLE][:1, :4, 1:].repeat(3, 1, 1, 1), torch.tensor([900.0, 500.0, 100.0])
    batch = torch.export.Dim("batch")
    graph, _ = capture(adapter, (x[:2], time[:2]), ({0: batch}, {0: batch}), ["x", "time"], ["y"])
    times = torch.cat([torch.full((3, 1), 3.0), time[:, None].expand(3, 5)], dim=1)
    seen = leaves[SAMPLE][:1].repeat(3, 1, 1, 1)
    expected = Network()(seen, times, 3)[:, :, 1:] + 11  # two layers of 1 and 10
    np.testing.assert_allclose(run(graph, {"x": x.numpy(), "time": time.numpy()})["y"], expected, rtol=1e-6)


class Text(nn.Module):
    """Adds the sum of a text's tokens, weighted by their positions, to x."""

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor, places: Tensor, zeros: Tensor) -> Tensor:
        weights = places + 1 + zeros[:, 0]
        return sample + timestep.reshape(-1, 1, 1, 1, 1) + (text * weights).sum(1).reshape(-1, 1, 1, 1, 1)


def test_the_graph_counts_the_tokens_of_a_text() -> None:
    """It has positions from 0, and zeros, for each token of an argument with rows."""
    text = Condition("text", "text", (3,), "float32", follows={0: "tokens"})
    arguments = {
        "text": Argument("text", torch.ones(1, 3), 1, text),
        "places": Argument("places", torch.arange(3), counts=("text", 0)),
        "zeros": Argument("zeros", torch.zeros(3, 2), counts=("text", 0), has_zeros=True),
    }
    names = ("sample", "timestep", *arguments)
    _, structure = torch.utils._pytree.tree_flatten(dict.fromkeys(names, 0))
    relations = replace(record_frames()[0].found, x="sample", times={"timestep": (1.0, 0.0)}, still_times={})
    sorted_ones = NetworkArguments(names, structure, arguments, {}, 0, None, {"timestep": ()})
    adapter = RecordedNetwork(Text(), relations, sorted_ones)
    x, time, length = torch.zeros(2, 4, 6, 2, 2), torch.zeros(2), torch.export.Dim("tokens", max=9)
    graph, _ = capture(adapter, (x, time, torch.ones(2, 3)), ({}, {}, ({1: length},)), ["x", "time", "text"], ["y"])
    feeds = {"x": x.numpy(), "time": time.numpy(), "text": np.ones((2, 5), np.float32)}
    np.testing.assert_allclose(run(graph, feeds)["y"], np.full((2, 4, 5, 2, 2), 1.0 + 2 + 3 + 4 + 5), rtol=1e-6)


def test_a_condition_replaces_some_numbers_of_an_argument() -> None:
    adapter, leaves = record_frames(has_layers=True)
    condition = Condition("layers_1", "layers_1", default=(10.0,), null=2.0)
    own = replace(adapter.arguments.arguments[LAYERS], condition=condition, places=(1,))
    adapter.arguments = replace(adapter.arguments, arguments={**adapter.arguments.arguments, LAYERS: own})
    x, time = leaves[SAMPLE][:1, :4, 1:].expand(2, -1, -1, -1, -1), leaves[TIME][:1, 1].expand(2)
    passed = adapter.bind(x, time, torch.tensor([2.0, 3.0]))[LAYERS]
    assert passed.T.tolist() == [[1.0, 2.0], [1.0, 3.0]]
