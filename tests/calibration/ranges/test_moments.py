"""Second moments: the values that weights multiply, the operations that read a tensor, and the memory needed."""

from collections import Counter

import numpy as np
import pytest

from fewstep.calibration.ranges import moments
from fewstep.calibration.ranges.moments import MomentSums, block_width, draw_patches, moment_bytes, split_inputs
from fewstep.calibration.ranges.observe import open_observed
from fewstep.calibration.ranges.readers import find_readers
from fewstep.graph.graph import BATCH, Graph, Node, Value
from fewstep.graph.selection import WeightedOp, match_weighted_op, select_int8_ops
from fewstep.graph.session import run
from tests.calibration.lowering.bodies.small_body import body, edit_nodes, feeds
from tests.calibration.lowering.bodies.uneven_channels_body import layer
from tests.onnx_text import graph_of_text

F32 = np.dtype(np.float32)


def as_rows(op: WeightedOp, weight: np.ndarray) -> np.ndarray:
    return np.moveaxis(weight, op.axis, 0).reshape(weight.shape[op.axis], -1)


@pytest.mark.parametrize("spatial", [1, 2])
def test_patches_times_weights_are_the_convolution(spatial: int) -> None:
    """With strides, pads and dilations; and the linear layer."""
    prepared = edit_nodes(body(spatial), "h2", dilations=[2] * spatial, pads=[2] * 2 * spatial)
    ops = select_int8_ops(prepared)
    values = run(prepared, feeds(prepared), [name for op in ops for name in (op.x, op.name)])
    for op in ops:
        weight = prepared.constants[op.weight]
        kernel = weight.shape[2:] if op.node.op == "Conv" else ()
        patches = draw_patches(op, values[op.x], kernel, np.random.default_rng(0), 10**6)
        channels = np.moveaxis(values[op.name], 1 if kernel else -1, -1).reshape(-1, weight.shape[op.axis])
        np.testing.assert_allclose(patches @ as_rows(op, weight).T, channels, atol=1e-4)
        few = draw_patches(op, values[op.x], kernel, np.random.default_rng(0), 8)
        assert few.shape == (8, patches.shape[1]) and all((row == patches).all(axis=1).any() for row in few)


@pytest.mark.parametrize("attributes, size", [({"group": 2, "pads": [1, 1]}, 7), ({"auto_pad": b"SAME_UPPER"}, 7)])
def test_sums_are_over_all_rows_and_groups(attributes: dict[str, object], size: int) -> None:
    """A convolution over sequences, compared with its patches: the taps of a channel are adjacent."""
    groups = int(attributes.get("group", 1))  # type: ignore[call-overload]
    weight = np.random.default_rng(0).standard_normal((32, 32 // groups, 3)).astype(np.float32)
    nodes = (Node("Conv", ("x", "w"), ("y",), attributes),)
    shape = (BATCH, 32, size)
    graph = Graph("conv", (Value("x", F32, shape),), (Value("y", F32, shape),), nodes, {"w": weight})
    op = match_weighted_op(nodes[0], graph)
    assert op is not None
    x = np.random.default_rng(1).standard_normal((5, 32, size)).astype(np.float32)
    watched = MomentSums(open_observed(graph, ("x",)), graph, ((op,),), 64, 0)
    np.testing.assert_allclose(watched({"x": x})["y"], run(graph, {"x": x}, ["y"])["y"], atol=1e-5)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1)])
    patches = np.stack([padded[:, :, at : at + 3].reshape(5, -1) for at in range(size)]).reshape(-1, 96)
    blocks = split_inputs(op, weight.shape, moments.WIDTH)
    assert [(span.start, span.stop) for span in blocks.spans] == ([(0, 48), (48, 96)] if groups == 2 else [(0, 96)])
    for own, span in zip(watched.sums["w"], blocks.spans, strict=True):
        np.testing.assert_allclose(own, patches[:, span].T @ patches[:, span], rtol=1e-4, atol=1e-3)


def test_moments_do_not_depend_on_further_operations() -> None:
    """Neither do the drawn positions, nor the width of blocks."""
    prepared = body()
    ops = select_int8_ops(prepared)
    network = open_observed(prepared, tuple(dict.fromkeys(op.x for op in ops)))
    alone, together = (MomentSums(network, prepared, parts, 8, 0) for parts in ((ops[1:],), (ops[1:], ops[:1])))
    for watched in (alone, together):
        watched(feeds(prepared))
    assert alone.sums.keys() < together.sums.keys()
    for name, own in alone.sums.items():
        np.testing.assert_array_equal(own, together.sums[name])


def test_an_expert_without_rows_has_no_moments() -> None:
    op = WeightedOp(Node("MatMul", ("x", "w"), ("y",)), 16, 16, 1)
    assert draw_patches(op, np.empty((0, 16), np.float32), (), np.random.default_rng(0), 64).shape == (0, 16)
    conv = WeightedOp(Node("Conv", ("x", "w"), ("y",), {"pads": [1, 1]}), 16, 16, 0)
    assert draw_patches(conv, np.empty((0, 16, 8), np.float32), (3,), np.random.default_rng(0), 64).shape == (0, 48)


def wide(layers: int, width: int) -> tuple[Graph, tuple[WeightedOp, ...]]:
    """Layers of width x width weights, which take no memory."""
    weight, row = np.broadcast_to(np.float32(0.5), (width, width)), f"float[batch, {width}]"
    body = " ".join(f"h{n + 1} = MatMul(h{n}, w{n})" for n in range(layers))
    graph = graph_of_text(f"({row} h0) => ({row} h{layers}) {{ {body} }}", **{f"w{n}": weight for n in range(layers)})
    return graph, tuple(op for node in graph.nodes if (op := match_weighted_op(node, graph)))


def test_wide_layers_have_narrower_blocks_within_a_bound() -> None:
    """164 M weights in layers of 1280 inputs: moments of whole layers would take the weights' memory, 655 MB."""
    graph, ops = wide(100, 1280)
    assert 4 * sum(graph.constants[op.weight].size for op in ops) > 16 * moments.MOST_BYTES
    assert block_width(ops, graph) == 80 and moment_bytes(ops, graph) == 4 * 163840000 / 16
    graph, ops = wide(8, 1280)
    assert block_width(ops, graph) == moments.WIDTH and moment_bytes(ops, graph) == 8 * 1280 * 256 * 4


def test_each_int8_operation_that_reads_a_tensor_is_one_of_its_readers() -> None:
    graph = body()
    read = find_readers(graph)
    counts = Counter(op.x for op in select_int8_ops(graph))
    assert counts and {name: len(read(name)) for name in counts} == counts
    assert read("x") == () == read("nothing")  # the layer that sees x stays in float


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gemm transB", "Conv", "grouped Conv"])
def test_a_reader_has_the_weights_of_each_channel(kind: str) -> None:
    graph = layer(kind)
    node = next(each for each in graph.nodes if each.inputs[0] == "a")
    weight, groups = graph.constants[node.inputs[1]], node.attributes.get("group", 1)
    axis = 0 if node.op == "Conv" or node.attributes.get("transB") else 1
    rows = np.moveaxis(weight, axis, 0)
    found = find_readers(graph)("a")
    assert len(found) == groups and sum(each.squares.sum() for each in found) == pytest.approx(np.square(rows).sum())
    for number, each in enumerate(found):
        part = np.split(rows, groups)[number].reshape(len(rows) // groups, rows.shape[1], -1)
        assert each.channels == slice(number * rows.shape[1], (number + 1) * rows.shape[1])
        assert each.taps == part.shape[2]
        np.testing.assert_array_equal(each.largest, np.abs(part).max(axis=2))
        np.testing.assert_allclose(each.squares, np.square(part).sum(axis=(0, 2)), rtol=1e-6)
