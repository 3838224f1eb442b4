"""Properties of Hexagon's targets: a code for every tensor, int8 for every weight, and forms that its library computes
correctly.
"""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.calibration.lowering.qdq_all_tensors import AGAIN
from fewstep.calibration.lowering.quantize import choose_encodings, lower, select_measured_ops, select_ops_to_lower
from fewstep.calibration.lowering.targets.qnn import QNN, check_no_float
from fewstep.calibration.lowering.targets.qnn_8bit import QNN_8BIT
from fewstep.calibration.ranges.observe import tensors_to_observe
from fewstep.graph.index import index
from fewstep.graph.session import open_session, run
from fewstep.plans.errors import UserError
from tests.calibration.lowering.bodies.small_body import EDGES, SELECTED, body, edit_nodes, feeds, sqnr, table
from tests.onnx_text import graph_of_text
from tests.refusals import refuses


@pytest.mark.parametrize("spatial", [1, 2])
def test_every_tensor_has_a_code_and_every_weight_eight_bits(spatial: int) -> None:
    prepared = body(spatial)
    lowered = lower(prepared, table(prepared, EDGES), QNN)
    assert lowered.coverage.int8_ops == ("h1", "shortcut", "h2", "mixed", "h3", "h4")
    assert lowered.coverage.float_ops == () and lowered.groups == ()  # one range for all steps
    graph, idx = lowered.graph, index(lowered.graph)
    assert graph.inputs == prepared.inputs and graph.outputs == prepared.outputs
    for node in graph.nodes:
        if node.op not in ("QuantizeLinear", "DequantizeLinear"):
            floats = [name for name in node.inputs if name not in ("", "flat", "image", "factors")]
            assert all(idx.producers[name].op == "DequantizeLinear" for name in floats)
            assert [reader.op for reader in idx.consumers[node.output]] == ["QuantizeLinear"]
    weights = [name for name in graph.constants if name.startswith("int8(") and ".weight" in name]
    assert len(weights) == 6 and all(graph.constants[name].dtype == np.int8 for name in weights)
    expected = run(prepared, feeds(prepared))["output"]
    assert sqnr(expected, open_session(graph, optimize=True, fuse_qdq=False)(feeds(prepared))["output"]) > 36


def test_sixteen_bits_add_nothing_to_the_error_of_weights() -> None:
    """With 8-bit weights alone the distance from float is the same, to a tenth of a decibel."""
    prepared = body()
    graph = lower(prepared, table(prepared), QNN).graph
    rounded = {
        name: (graph.constants[f"int8({name})"].T * graph.constants[f"scale({name})"]).T.astype(np.float32)
        for name in prepared.constants
        if name.endswith(".weight") and name != "mixed.weight"
    }
    mixed = graph.constants["int8(mixed.weight)"] * graph.constants["scale(mixed.weight)"]
    only = replace(prepared, constants={**prepared.constants, **rounded, "mixed.weight": mixed.astype(np.float32)})
    expected, fed = run(prepared, feeds(prepared))["output"], feeds(prepared)
    whole, weights = (sqnr(expected, open_session(each, fuse_qdq=False)(fed)["output"]) for each in (graph, only))
    assert abs(whole - weights) < 0.1


def test_a_bias_has_the_scale_of_what_it_is_added_to() -> None:
    constants = lower(body(), table(body()), QNN).graph.constants
    for name in ("h1", "shortcut", "mixed"):
        shift = f"shift({name}_biased)"
        assert constants[f"scale({shift})"] == constants[f"scale({name})"]
        kept = (constants[f"int8({shift})"].astype(float) - 2**15) * constants[f"scale({shift})"]
        np.testing.assert_allclose(kept, body().constants[f"{name}.bias"], atol=constants[f"scale({shift})"])


def test_inner_operations_alone_read_eight_bits() -> None:
    prepared, fed = body(), feeds(body())
    whole, graph = (lower(prepared, table(prepared), each).graph for each in (QNN, QNN_8BIT))
    idx = index(graph)
    read = {idx.producers[f"whole({name})"].inputs[0] for name in SELECTED}
    zeros = {name: graph.constants[f"zero_point({name})"].dtype for name in read}
    assert set(zeros.values()) == {np.dtype(np.uint8)} and all(name.startswith("eight(") for name in read)
    others = [array.dtype for name, array in graph.constants.items() if name.startswith("zero_point(")]
    assert others.count(np.dtype(np.uint8)) == len(read) and others.count(np.dtype(np.uint16)) > 10
    expected = run(prepared, fed)["output"]
    assert idx.producers["h1"].inputs[0] == "rounded(x)"  # the first layer
    sixteen, eight = (sqnr(expected, open_session(each, fuse_qdq=False)(fed)["output"]) for each in (whole, graph))
    assert 34 < eight < sixteen


def test_weights_of_eight_bit_operations_have_one_scale_and_factors_of_rows_after_them() -> None:
    prepared = body()
    whole, graph = (lower(prepared, table(prepared), each).graph for each in (QNN, QNN_8BIT))
    idx = index(graph)
    for name in SELECTED:
        product = idx.producers[name]
        scale = idx.producers[idx.producers[f"whole({name})"].inputs[1]].inputs[1]
        rows = graph.constants[idx.producers[product.inputs[1]].inputs[0]].ravel() / (2**16 - 1)
        assert product.op == "Mul" and graph.constants[scale] == whole.constants[scale].max()
        np.testing.assert_allclose(graph.constants[scale] * rows, whole.constants[scale], rtol=1e-4)


def test_a_bias_inside_an_operation_is_no_factor_of_rows_larger() -> None:
    """Such as the bias of a Gemm: passes put only a convolution's bias into a separate operation."""
    plain, rng = body(), np.random.default_rng(3)
    rows = np.geomspace(0.02, 1, 32, dtype=np.float32).reshape(-1, 1, 1, 1)
    added = {"h2.weight": rows * plain.constants["h2.weight"], "inner": rng.standard_normal(32).astype(np.float32)}
    prepared = edit_nodes(plain, "h2", "inner", constants=added)
    fed = feeds(prepared)
    lowered = lower(prepared, table(prepared), QNN_8BIT).graph
    assert sqnr(run(prepared, fed)["output"], open_session(lowered, fuse_qdq=False)(fed)["output"]) > 30


def test_what_other_targets_leave_in_float_reads_sixteen_bits_next_to_an_inner_operation() -> None:
    plain = body()
    few = np.random.default_rng(4).standard_normal((1, 16, 1, 1)).astype(np.float32)
    gate = graph_of_text("() => () { gate = Conv(a1, few) gated = Mul(shortcut, gate) }").nodes
    at = 1 + next(place for place, node in enumerate(plain.nodes) if node.output == "shortcut")
    following = [
        replace(node, inputs=tuple("gated" if name == "shortcut" else name for name in node.inputs))
        for node in plain.nodes[at:]
    ]
    prepared = plain.with_nodes([*plain.nodes[:at], *gate, *following], {"few": few})
    convolutions = {
        node.inputs[0] for node in lower(prepared, table(prepared), QNN_8BIT).graph.nodes if node.op == "Conv"
    }
    assert {"eight(a1)", "rounded(a1)"} < convolutions


def test_a_report_watches_the_tensors_of_codes() -> None:
    prepared = body()
    ops = select_measured_ops(prepared, table(prepared), QNN_8BIT.scheme)
    codes = choose_encodings(prepared, table(prepared), ops, QNN_8BIT.scheme)
    assert set(codes) == set(tensors_to_observe(prepared, no_floats=True))


def test_what_moves_numbers_keeps_their_code() -> None:
    graph = lower(body(), table(body()), QNN).graph
    for source, moved in (("a2", "flattened"), ("flattened", "tokens"), ("mixed_biased", "back")):
        for part in ("scale", "zero_point"):
            assert graph.constants[f"{part}({source})"] == graph.constants[f"{part}({moved})"]


def test_codes_reach_beyond_what_was_seen() -> None:
    prepared, ranges = body(), table(body())
    graph = lower(prepared, ranges, QNN).graph
    scale, zero = (float(graph.constants[f"{part}(x)"]) for part in ("scale", "zero_point"))
    low, high = ranges["x"].pooled.low, ranges["x"].pooled.high
    assert -zero * scale == pytest.approx(1.25 * low, abs=scale)
    assert (65535 - zero) * scale == pytest.approx(1.25 * high, abs=scale)
    assert float(graph.constants["scale(a1_gate)"]) == 2**-16  # of a Sigmoid, which QNN takes no other for


def test_a_silu_reads_its_product_through_a_second_pair() -> None:
    graph = lower(body(), table(body()), QNN).graph
    idx = index(graph)
    for name, t in (("a1", "h1_biased"), ("a2", "modulated"), ("a3", "residual")):
        assert idx.producers[name].inputs == (f"again({t})", f"rounded({name}_gate)")
        again, once = (float(graph.constants[f"scale({each})"]) for each in (f"again({t})", t))
        assert again == pytest.approx(AGAIN * once)


def test_norms_attention_and_transposed_convolutions_have_codes_too() -> None:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return (0.2 * rng.standard_normal(shape)).astype(np.float32)

    text = """(float[batch, 3, 4, 4] x) => (float[batch, 3, 8, 8] y) {
        a = Conv(x, first) grouped = Reshape(a, groups) normal = InstanceNormalization(grouped, ones, zeros)
        b = Reshape(normal, picture) c = ConvTranspose<strides=[2, 2], kernel_shape=[2, 2]>(b, up)
        d = Reshape(c, tokens) scores = MatMul(d, d) shares = Softmax<axis=-1>(scores) mixed = MatMul(shares, d)
        e = Reshape(mixed, large) y = Conv(e, last)
    }"""
    shapes = {"groups": [0, 4, -1], "picture": [0, 16, 4, 4], "tokens": [0, 32, 32], "large": [0, 16, 8, 8]}
    constants = {name: np.array(shape) for name, shape in shapes.items()}
    constants |= {"first": random(16, 3, 1, 1), "last": random(3, 16, 1, 1), "up": random(16, 16, 2, 2)}
    constants |= {"ones": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32)}
    prepared = graph_of_text(text, **constants)
    lowered = lower(prepared, table(prepared), QNN)
    assert lowered.coverage.int8_ops == ("a", "c", "scores", "mixed", "y")
    assert lowered.graph.constants["int8(up)"].dtype == np.int8
    assert lowered.graph.constants["scale(up)"].shape == (16,)
    signed = {name: array for name, array in lowered.graph.constants.items() if name == "zero_point(signed(d))"}
    assert [array.dtype for array in signed.values()] == [np.int16]  # one for both products
    constants, shift = lowered.graph.constants, "shift(normal)"
    assert constants[f"int8({shift})"].dtype == np.int32
    assert constants[f"scale({shift})"] == pytest.approx(constants["scale(a)"] * constants["scale(ones)"])
    readers = index(lowered.graph).consumers["signed(d)"]
    assert [(node.output, node.inputs.index("signed(d)")) for node in readers] == [("scores", 1), ("mixed", 1)]
    found = open_session(lowered.graph, fuse_qdq=False)(feeds(prepared))["y"]
    assert sqnr(run(prepared, feeds(prepared))["y"], found) > 34


def test_a_product_in_float_is_named() -> None:
    with pytest.raises(UserError, match="'h1' reads 'x' in float"):
        check_no_float(body(), body(), ())


def test_every_float_tensor_is_observed_but_those_of_the_same_numbers() -> None:
    prepared = body()
    more = set(tensors_to_observe(prepared, no_floats=True)) - set(tensors_to_observe(prepared))
    assert {"row", "a1_gate", "modulated", "residual", "h1_biased"} <= more
    assert not {"flattened", "back", "unflattened", "output"} & more


def test_scale_and_shift_of_a_layer_norm_have_codes_of_their_own() -> None:
    rng = np.random.default_rng(0)
    scale, shift = (rng.normal(mean, 0.3, 32).astype(np.float32) for mean in (1, 0))
    text = """(float[batch, 32] x) => (float[batch, 32] y)
    { a = MatMul(x, first) b = LayerNormalization<axis=-1>(a, scale, shift) y = MatMul(b, last) }"""
    weights = {name: rng.standard_normal((32, 32)).astype(np.float32) for name in ("first", "last")}
    prepared = graph_of_text(text, scale=scale, shift=shift, **weights)
    graph = lower(prepared, table(prepared), QNN).graph
    constants = graph.constants
    for name, wanted, dtype in (("scale", scale, np.int16), ("shift(b)", shift, np.int32)):
        assert constants[f"int8({name})"].dtype == dtype and not constants[f"zero_point({name})"].any()
        kept = constants[f"int8({name})"] * constants[f"scale({name})"]
        np.testing.assert_allclose(kept, wanted, atol=3e-5)
    found = open_session(graph, fuse_qdq=False)(feeds(prepared))["y"]
    assert sqnr(run(prepared, feeds(prepared))["y"], found) > 36


def test_a_mask_that_no_code_holds_next_to_others_is_refused_at_the_start() -> None:
    prepared = body()
    for mask in (-np.inf, np.finfo(np.float32).min):
        masked = replace(prepared, constants={**prepared.constants, "mask": np.array([0, mask], np.float32)})
        assert select_ops_to_lower(masked)
        with refuses(("constant 'mask' has", "too large for 16 bits")):
            select_ops_to_lower(masked, no_floats=True)
