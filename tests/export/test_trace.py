import numpy as np
import pytest
import torch

from fewstep.graph.files.io import to_model
from fewstep.graph.graph import BATCH
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from tests.export.denoisers import Double, Exported, LearnedVariance, Pair, Raising, Tiny, WrongShape, source


def test_the_exported_graph_computes_what_the_module_does(attending: Exported) -> None:
    x, time = torch.randn(5, 2, 4, 4), torch.linspace(0, 999, 5)
    found = run(attending.traced.graph, {"x": x.numpy(), "time": time.numpy()})["output"]
    np.testing.assert_allclose(found, attending.source.module(x, time).numpy(), atol=1e-6)


def test_ports_have_their_names_and_a_dynamic_batch(unet: Exported) -> None:
    graph = unet.traced.graph
    assert [(v.name, v.shape) for v in graph.inputs] == [
        ("x", (BATCH, 1, 28, 28)),
        ("time", (BATCH,)),
        ("class", (BATCH,)),
    ]
    assert [(v.name, v.shape) for v in graph.outputs] == [("output", (BATCH, 1, 28, 28))]


def test_nodes_are_named_by_the_module_they_come_from(unet: Exported) -> None:
    names = {node.name for node in unet.prepared.body.nodes}
    assert {"down28.conv1/Conv", "up28.shortcut/Conv_0", "attention.qkv/MatMul"} <= names


def test_no_path_of_this_machine_is_in_the_graph(unet: Exported) -> None:
    assert b".py" not in to_model(unet.traced.graph).SerializeToString()


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Double(), r"Double returned torch\.float64, not torch\.float32"),
        (Pair(), "Pair returned tuple, not a tensor"),
        (WrongShape(), r"WrongShape returned shape \[3, 1, 4, 4\] for x \[3, 2, 4, 4\]"),
        (LearnedVariance(), r"LearnedVariance returned shape \[3, 4, 4, 4\] .*; return output.chunk\(2, dim=1\)\[0\]"),
        (Raising(), r"Raising failed: no such layer \(denoisers.py:\d+\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_module_that_cannot_be_exported_is_refused_in_one_line(module: torch.nn.Module, says: str) -> None:
    with pytest.raises(UserError, match=says):
        source(module).trace()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(value: float) -> None:
    module = Tiny()
    with torch.no_grad():
        module.conv.weight[1, 0, 2, 2] = value
    with pytest.raises(UserError, match=r"'conv\.weight'"):
        source(module).trace()
