"""The tensorrt target: pairs on inputs of weighted operations, in a float16 graph."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.calibration.lowering.encoding import product_name
from fewstep.calibration.lowering.group_factors import add_group_factors
from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT, check_pairs_on_inputs
from fewstep.graph.graph import GROUP, Graph, Node, rename_inputs
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.index import index
from fewstep.graph.passes.half import float32_tensors, to_half
from fewstep.graph.selection import select_int8_ops
from fewstep.graph.session import run
from fewstep.graph.types import infer_types
from fewstep.plans.errors import UserError
from tests.calibration.lowering.bodies.small_body import EDGES, SELECTED, body, feeds, open_simulation, sqnr, table
from tests.refusals import refuses


def lower_for_tensorrt(prepared: Graph) -> Graph:
    return lower(prepared, table(prepared, EDGES), TENSORRT).graph


@pytest.mark.parametrize("edges", [EDGES, ()])
def test_pairs_stand_on_inputs_of_weighted_operations_and_nowhere_else(edges: tuple[float, ...]) -> None:
    graph = lower(body(), table(body(), edges), TENSORRT).graph
    idx = index(graph)
    convolutions = {node.output for node in graph.nodes if node.op == "Conv"}  # of one scale, in all groups
    linear = f"unscaled({product_name('mixed') if edges else 'mixed'})"  # ahead of ratios of channels
    names = convolutions.intersection(SELECTED) | {linear}
    assert len(names) == len(SELECTED)
    for node in graph.nodes:
        if node.op == "QuantizeLinear":
            (pair,) = idx.consumers[node.output]
            assert pair.op == "DequantizeLinear" and {n.output for n in idx.consumers[pair.output]} <= names
    for name in names:
        assert all(idx.producer(source, "DequantizeLinear") for source in idx.producers[name].inputs)


def test_convolutions_say_the_shape_of_their_kernels() -> None:
    """TensorRT up to 10.3 refuses them otherwise, and an ONNX file may omit it."""
    prepared = body()
    bare = [
        replace(node, attributes={k: v for k, v in node.attributes.items() if k != "kernel_shape"})
        for node in prepared.nodes
    ]
    graph = lower(prepared.with_nodes(bare), table(prepared), TENSORRT).graph
    shapes = {
        node.attributes["kernel_shape"][0] for node in graph.nodes if node.op == "Conv" and "rounded(" in node.inputs[1]
    }
    assert shapes == {1, 3}


def test_the_simulation_is_the_graph_rounded_in_float() -> None:
    """numpy rounds activations and weights at the pairs, and gives the same up to float16."""
    prepared = body()
    ranges = table(prepared)
    graph = lower(prepared, ranges, TENSORRT).graph
    simulated = open_simulation(graph, also=["a1_centred", "shortcut"])(feeds(prepared))
    names = ("a1_centred", "shortcut.weight")
    scale, weight_scale = (graph.constants[f"scale({name})"].astype(np.float32) for name in names)
    pooled = ranges["a1"].pooled
    assert scale * 255 == pytest.approx(pooled.high - pooled.low, rel=4e-3)  # the zero point is an integer
    activation = np.clip(np.rint(simulated["a1_centred"].astype(np.float32) / scale), -128, 127) * scale
    assert weight_scale.shape == ()
    weight = graph.constants["int8(shortcut.weight)"][..., 0, 0] * weight_scale
    expected = np.einsum("bchw,oc->bohw", activation, weight)
    np.testing.assert_allclose(simulated["shortcut"], expected, atol=3e-3 * np.abs(expected).max())
    assert sqnr(run(prepared, feeds(prepared))["output"], simulated["output"]) > 30


def test_nothing_stays_float32_between_the_casts() -> None:
    graph = lower_for_tensorrt(body())
    types = infer_types(graph)
    assert not list(float32_tensors(graph))
    assert {types.values[name].dtype for name in (*SELECTED, "h1", "h4", "residual")} == {np.dtype(np.float16)}
    assert all(value.dtype == np.float32 for value in (*graph.inputs, *graph.outputs) if value.name != GROUP)
    scales = [array for name, array in graph.constants.items() if name.startswith("scale(")]
    assert scales and all(scale.dtype == np.float16 for scale in scales)
    assert graph.constants["float16(factors())"].dtype == np.float16


def test_zeros_and_positions_made_in_the_graph_are_no_obstacle() -> None:
    """`x.new_zeros(x.shape[0], ...)` and `torch.arange(x.shape[0])` export to these, added to an inner tensor."""
    prepared = body()
    made = [
        Node("Shape", ("h1",), ("sizes",), {"end": 1}),
        Node("ConstantOfShape", ("sizes",), ("zeros",)),
        Node("Squeeze", ("sizes",), ("size",)),
        Node("Cast", ("size",), ("number",), {"to": 1}),
        Node("Range", ("first", "number", "step"), ("places",)),
        Node("Add", ("zeros", "places"), ("line",)),
        Node("Reshape", ("line", "column"), ("rows",)),
        Node("Add", ("h1", "rows"), ("moved",)),
    ]
    end = next(place for place, node in enumerate(prepared.nodes) if "h1" in node.outputs) + 1
    rest = [rename_inputs(node, {"h1": "moved"}) for node in prepared.nodes[end:]]
    column = np.array([-1, 1, 1, 1])
    numbers = {"first": np.array(0, np.float32), "step": np.array(1, np.float32), "column": column}
    graph = prepared.with_nodes((*prepared.nodes[:end], *made, *rest), numbers)
    found = open_simulation(lower(graph, table(graph), TENSORRT).graph)(feeds(graph))["output"]
    assert sqnr(run(graph, feeds(graph))["output"], found) > 30


def test_float16_alone_is_close_to_float32() -> None:
    prepared = body()
    half = to_half(prepared, FLOAT16)
    assert sqnr(run(prepared, feeds(prepared))["output"], run(half, feeds(prepared))["output"]) > 50
    assert half.constants["factors"].dtype == np.float32  # Resize takes its scales in float32 only


def test_scales_too_small_for_float16_do_not_become_zero() -> None:
    prepared = body()
    silent = prepared.with_nodes(prepared.nodes, {"h1.weight": np.zeros((16, 3, 3, 3), np.float32)})
    quiet = silent.with_nodes(silent.nodes, {"h1.bias": np.full((1, 16, 1, 1), 1e-9, np.float32)})
    graph = lower(quiet, table(quiet), TENSORRT).graph
    assert 0 < graph.constants["scale(a1_centred)"] <= np.finfo(np.float16).tiny
    assert np.isfinite(open_simulation(graph)(feeds(quiet))["output"]).all()


def test_an_operation_without_pairs_is_named() -> None:
    prepared = body()
    with pytest.raises(UserError, match="'shortcut' does not read 8 bits"):
        check_pairs_on_inputs(prepared, to_half(prepared, FLOAT16), select_int8_ops(prepared))


@pytest.mark.parametrize("edges", [EDGES, ()])
def test_a_zero_point_that_nothing_moved_is_named(edges: tuple[float, ...]) -> None:
    """Codes of `choose_int8` need a graph that is centred."""
    unmoved = replace(TENSORRT, scheme=replace(TENSORRT.scheme, arithmetic=(add_group_factors,)))
    with refuses(("'shortcut'", "zero point")):
        lower(body(), table(body(), edges), unmoved)


def test_what_stays_float32_is_named() -> None:
    prepared = body()
    graph = lower(prepared, table(prepared), TENSORRT).graph
    widened = graph.with_nodes((*graph.nodes, Node("Cast", ("a1",), ("wide",), {"to": 1})))
    with pytest.raises(UserError, match="'wide' is still float32"):
        check_pairs_on_inputs(prepared, widened, select_int8_ops(prepared))
