"""benchmarks/quantization/counting.py: what counts as int8; biases.py: the same with biases joined."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.quantization.biases import join_bias
from benchmarks.quantization.counting import covered, in_float, multiplying, paired
from fewstep.calibration.lowering.coverage import macs
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import index
from fewstep.graph.passes.bias import separate_bias
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from tests.calibration.lowering.bodies.small_body import body, feeds
from tests.calibration.test_calibrate import denoiser


def test_pairs_count_where_they_stand_at_both_inputs() -> None:
    pairs = ("a1", "h2.weight", "a3")
    given = body()
    graph = with_pairs(given, pairs)
    assert paired(graph) == {"h2"}
    assert covered("tensorrt", given, graph).int8_ops == ("h2",)
    assert covered("tensorrt", given, graph).int8_macs == 32 * 16 * 9 * 64


@pytest.mark.parametrize("given", [body(), denoiser()], ids=["with biases and tokens", "with activations"])
def test_onnxruntime_tells_what_it_runs_in_float(given: Graph) -> None:
    graph = given.with_nodes(replace(node, name=node.output) for node in given.nodes)
    assert in_float(given, graph) == macs(given).keys()
    assert covered("onnxruntime", given, graph).int8_macs == 0


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("h2", "h2"),
        ("h1_biased_nchwc", "h1"),
        ("output_nchwc", "h4"),
        ("mixed/MatmulTransposeFusion/", "mixed"),
        ("mixed/MatmulTransposeFusion//MatMulScaleFusion/", "mixed"),
        ("fused mixed_biased/MatMulAddFusion_token_2", "mixed"),
    ],
)
def test_names_that_onnxruntime_gives_lead_to_the_operation(name: str, operation: str) -> None:
    assert multiplying(index(body()), name) == operation


def test_a_name_that_leads_to_several_operations_or_to_none_is_refused() -> None:
    for name in ("residual", "unknown"):
        with pytest.raises(UserError, match=f"calls a float operation '{name}'"):
            multiplying(index(body()), name)


def test_an_operation_that_the_float_graph_does_not_have_is_refused() -> None:
    given = body()
    graph = with_pairs(given, ("a1", "h2.weight"))
    renamed = graph.with_nodes(replace(node, name="other") if node.output == "h2" else node for node in graph.nodes)
    with pytest.raises(UserError, match="'other' runs in int8"):
        covered("tensorrt", given, renamed)


@pytest.mark.parametrize("given", [body(), denoiser()], ids=["with biases and tokens", "with activations"])
def test_biases_are_joined_and_nothing_is_computed_or_counted_differently(given: Graph) -> None:
    given = given.with_nodes(replace(node, name=node.output) for node in given.nodes)
    joined = join_bias(given)
    biased = [node for node in joined.nodes if node.op == "Conv" and len(node.inputs) == 3]
    assert len(biased) == len(given.nodes) - len(joined.nodes)
    outputs = [value.name for value in given.outputs]
    values = feeds(given)
    expected, found = run(given, values, outputs), run(joined, values, outputs)
    assert all(np.abs(found[name] - expected[name]).max() <= 1e-6 * np.abs(expected[name]).max() for name in outputs)
    assert {node.name for node in joined.nodes} >= macs(given).keys()
    assert in_float(given, joined) == macs(given).keys()
    assert separate_bias(joined).ops() == given.ops()


def test_what_int8_covers_is_the_same_with_biases_joined() -> None:
    given, pairs = body(), ("a1", "h2.weight", "a3")
    joined = join_bias(given)
    assert len(given.nodes) - len(joined.nodes) == 5
    for engine in ("onnxruntime", "openvino", "tensorrt"):
        if engine == "openvino":
            pytest.importorskip("openvino", reason="openvino is not installed")
        before, after = (covered(engine, given, with_pairs(graph, pairs)) for graph in (given, joined))
        assert before == after
        # onnxruntime's kernels also need the pair behind an operation
        assert after.int8_ops == (() if engine == "onnxruntime" else ("h2",))


def test_a_product_that_is_read_twice_or_returned_keeps_its_bias_apart() -> None:
    given = body()
    again = given.with_nodes([*given.nodes, Node("Neg", ("h2",), ("h2_again",), name="h2_again")])
    assert sum(len(node.inputs) == 3 for node in join_bias(again).nodes if node.op == "Conv") == 4
    returned = replace(given, outputs=(*given.outputs, replace(given.outputs[0], name="h2")))
    assert sum(len(node.inputs) == 3 for node in join_bias(returned).nodes if node.op == "Conv") == 4


def with_pairs(graph: Graph, tensors: Sequence[str]) -> Graph:
    """Convolutions read the tensors named through QuantizeLinear and DequantizeLinear; nodes named as tools do."""
    nodes = []
    for name in tensors:
        nodes.append(Node("QuantizeLinear", (name, "scale", "zero"), (f"{name}_q",)))
        nodes.append(Node("DequantizeLinear", (f"{name}_q", "scale", "zero"), (f"{name}_dq",)))
    for node in graph.nodes:
        read = tuple(f"{name}_dq" if node.op == "Conv" and name in tensors else name for name in node.inputs)
        nodes.append(replace(node, name=node.name or node.output, inputs=read))
    constants = {**graph.constants, "scale": np.float32(0.1), "zero": np.int8(0)}
    return replace(graph, nodes=tuple(nodes), constants=constants)
