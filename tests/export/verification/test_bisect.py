"""The first tensor that differs is found and named, a few tensors at a time."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from fewstep.export.sources.onnx_file import OnnxSource
from fewstep.export.spec import Spec
from fewstep.export.verification import bisect
from fewstep.export.verification.bisect import AT_ONCE, find_first_wrong
from fewstep.export.verification.difference import differs
from fewstep.export.verification.points import ComparisonPoint, comparison_points
from fewstep.graph.cuts.prologue import PreparedDenoiser
from fewstep.graph.graph import Graph, Node
from fewstep.graph.prepare import prepare
from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from tests.bundles import small, value
from tests.export.denoisers import Exported, source
from tests.export.sources.onnx_models import model
from tests.export.verify_export import verify, verify_source
from tests.onnx_text import graph_of_text
from tests.refusals import refuses

LENGTH = 1000


def chain(branches: int) -> Graph:
    """Chains of LENGTH additions from x, summed: tensor i of chain b is "b.i"."""
    places = ((b, i) for b in range(branches) for i in range(LENGTH))
    nodes = [Node("Add", (f"{b}.{i - 1}" if i else "x", "one"), (f"{b}.{i}",)) for b, i in places]
    nodes.append(Node("Sum", tuple(f"{b}.{LENGTH - 1}" for b in range(branches)), ("output",)))
    return small([value("x", "batch", 1)], [value("output", "batch", 1)], nodes, one=1.0)


@pytest.mark.parametrize(("branches", "bad"), [(1, 0), (1, 617), (1, LENGTH - 1), (3, 400)])
def test_the_first_wrong_tensor_is_found_in_a_few_runs(branches: int, bad: int) -> None:
    """One chain is wrong from `bad` on. The others stay right, also later ones."""
    graph, runs = chain(branches), list[Collection[str]]()

    def wrong(names: Collection[str]) -> dict[str, bool]:
        runs.append(names)
        return {name: name.startswith("0.") and int(name.split(".")[1]) >= bad for name in names}

    candidates = {node.output for node in graph.nodes} - {"output"}
    assert find_first_wrong(graph, candidates, wrong) == f"0.{bad}"
    assert len(runs) <= 8 and max(map(len, runs)) <= AT_ONCE  # log(3000) / log(8) is 3.9


def test_what_cannot_be_compared_is_skipped() -> None:
    def wrong(names: Collection[str]) -> dict[str, bool]:
        return {name: int(name[2:]) >= 500 for name in names if int(name[2:]) % 10 == 0}

    assert find_first_wrong(chain(1), {f"0.{i}" for i in range(LENGTH)}, wrong) == "0.500"


def test_a_wrong_output_of_right_tensors_is_the_output() -> None:
    assert find_first_wrong(chain(1), {"0.3", "0.700"}, lambda names: dict.fromkeys(names, False)) == "output"


def test_infinite_values_are_the_same_where_they_are_the_same() -> None:
    """A mask contains them."""
    mask = np.array([0.0, -np.inf, 1.0], np.float32)
    assert not differs(mask, mask + np.float32([1e-6, 0, 0]), 1e-4)
    assert differs(mask, np.float32([0, 0, 1]), 1e-4) and differs(mask, np.float32([0, -np.inf, np.nan]), 1e-4)


def test_an_overflow_is_found_in_one_run_after_a_mask_that_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16 the mask's -1e9 is infinite, but nothing after the softmax. Its result times 1e6 is infinite, and
    so is the output.
    """
    body = graph_of_text(
        """(float[batch, 4] x) => (float[batch, 4] output) {
            masked = Add(x, mask) weights = Softmax<axis=1>(masked)
            louder = Mul(weights, thousand) loud = Mul(louder, thousand) output = Mul(loud, loud)
        }""",
        mask=np.float32([0, -1e9, 0, 0]),
        thousand=1000.0,
    )
    body = body.with_nodes(replace(node, name="") for node in body.nodes)
    runs, run = list[None](), bisect.open_prepared
    monkeypatch.setattr(bisect, "open_prepared", lambda *given: runs.append(None) or run(*given))
    point = ComparisonPoint(3.0, {"x": np.zeros((1, 4), np.float32)}, {})
    said = bisect.explain_float16_loss(np.inf, point, "own", PreparedDenoiser(None, body))
    assert said.endswith("overflows at time 3, batch 1, from node 'loud' (Mul) on")
    assert len(runs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exported", "prepared"])
def test_a_broken_node_is_named_wherever_it_is(unet: Exported, kind: str) -> None:
    """A pass replaces a multiplication by an addition, in one node of each part of the network."""
    graph = unet.traced.graph
    broken = [node for node in graph.nodes if node.op == "Mul" and len(set(node.inputs)) == 2][::20]
    assert len(broken) > 1
    for node in broken:
        spoiled = graph.with_nodes(replace(each, op="Add") if each is node else each for each in graph.nodes)
        traced = replace(unet.traced, graph=spoiled) if kind == "exported" else unet.traced
        wrong = unet.prepared if kind == "exported" else prepare(spoiled)
        with pytest.raises(UserError, match="differs from") as failure:
            verify(unet.source.spec, traced, wrong)
        if kind == "exported":  # a module of several operations is one for torch, and is named
            assert f"({node.name.rpartition('/')[0]}" in str(failure.value)
        else:  # where a pass has joined the node with its neighbours, the next one that kept its name
            named = str(failure.value).split("from node '")[1].split("'")[0]
            order = [each.output for each in graph.nodes]
            assert 0 <= order.index(named) - order.index(node.output) < 20


def onnx_source(folder: Path, proto: onnx.ModelProto) -> OnnxSource:
    onnx.save(proto, folder / "model.onnx")
    label = Condition("class", "label", low=0, high=4)
    spec = Spec("s", (2, 4, 4), (label,), "epsilon", ScheduleSpec("linear"), x="sample", time="timestep", output="out")
    return OnnxSource(folder / "model.onnx", spec, "model.onnx", "0" * 64)


@pytest.mark.slow
@pytest.mark.parametrize("form", [{}, {"opset": 17, "time": "scalar"}, {"batch": 2}, {"dtype": np.float16}], ids=str)
def test_a_difference_from_an_onnx_file_is_named_by_its_own_tensors(tmp_path: Path, form: dict[str, object]) -> None:
    file = onnx_source(tmp_path, model(**form))  # type: ignore[arg-type]
    traced = file.trace()
    assert {"h", "scaled", "sum"} <= set(traced.reference.tensor_names())
    verify(file.spec, traced, prepare(traced.graph))
    for name, spoil in (("h", {"op": "Conv", "attributes": {"pads": [0, 0, 2, 2]}}), ("sum", {"op": "Mul"})):
        nodes = [replace(node, **spoil) if node.output == name else node for node in traced.graph.nodes]  # type: ignore[arg-type]
        wrong = replace(traced, graph=traced.graph.with_nodes(nodes))
        with pytest.raises(UserError, match=rf"differs from model.onnx from node '{name}'"):
            verify(file.spec, wrong, prepare(traced.graph))


class Masked(nn.Module):
    """Masked attention, whose scores contain -inf, and the logarithm of a negative number."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        attention = x.masked_fill(torch.arange(4) == 0, float("-inf")).softmax(-1)
        return attention + (self.head(x) * 4).log()


def test_the_origin_of_nan_is_not_a_mask_of_infinities() -> None:
    with refuses(("output of Masked is not finite at time 999", "node 'log'")):
        verify_source(source(Masked()))


def test_the_origin_of_nan_in_an_onnx_file(tmp_path: Path) -> None:
    proto = model()
    proto.graph.node.append(helper.make_node("Log", ["out"], ["wrong"], name="head"))
    proto.graph.node.append(helper.make_node("Add", ["wrong", "sum"], ["end"]))
    proto.graph.output[0].name = "end"
    file = onnx_source(tmp_path, proto)
    with refuses(("model.onnx", "not finite", "'wrong' (head)")):
        verify_source(replace(file, spec=msgspec.structs.replace(file.spec, output="end")))


@pytest.mark.slow
def test_points_of_a_torch_reference_give_the_tensors_that_are_asked_for(unet: Exported) -> None:
    reference, point = unet.traced.reference, next(comparison_points(unet.source.spec))
    names = reference.tensor_names()
    made = {output for node in unet.traced.graph.nodes for output in node.outputs}
    assert len(set(names) & made) > 0.5 * len(names)
    some = list(names)[::40]
    assert list(reference.inner_tensors(point.feeds, some)) == some
