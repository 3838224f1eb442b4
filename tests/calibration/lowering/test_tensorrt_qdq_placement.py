"""Where TensorRT's roundings gain more than they cost, by the kernels that an engine makes of a graph."""

import numpy as np

from fewstep.calibration.lowering.quantize import select_ops_to_lower
from fewstep.calibration.lowering.tensorrt_qdq_placement import BATCH as GUIDED
from fewstep.calibration.lowering.tensorrt_qdq_placement import (
    KERNEL,
    approximate_gelu,
    find_slower_operations,
    place_roundings,
)
from fewstep.graph.graph import Graph
from tests.calibration.lowering.bodies.small_body import Builder

SIZE = 8
SHAPES = {"w1": (32, 256), "bias": (256,), "w2": (256, 32)}


def block(channels: int = 16, last: int = 3) -> Graph:
    """A block with a norm's scale and shift in widening of a convolution, a modulated one, and layers after its sum."""
    b = Builder(2)
    h = b.conv("x", "h", 3, channels)
    b.constants |= {name: np.ones((channels, 1, 1), np.float32) for name in ("gamma", "beta")}
    shifted = b.add("Add", (b.add("Mul", (h, "gamma"), "scaled"), "beta"), "shifted")
    first = b.conv(b.silu(shifted, "a"), "first", channels, channels)
    second = b.conv(b.silu(b.add("Mul", (first, "row"), "modulated"), "b"), "second", channels, channels)
    total = b.add("Add", (second, h), "total")
    down = b.conv(total, "down", channels, channels)
    both = b.add("Concat", (down, total), "both", axis=1)
    b.add("Identity", (b.conv(b.silu(both, "c"), "out", 2 * channels, last),), "output")
    return b.graph(3, SIZE, SIZE, row=(channels, 1, 1), out=(last, SIZE, SIZE))


def test_what_no_other_kernel_rounds_stays_float() -> None:
    """After a sum of convolutions a rounding is a separate kernel."""
    graph = block()
    ops = select_ops_to_lower(graph)
    assert {op.name for op in ops} == {"first", "second", "down"}
    assert find_slower_operations(graph, ops) == {"down"}


def test_weights_that_are_many_pay_for_a_kernel_and_a_copy() -> None:
    """A convolution that alone reads the rounded activation, and whose result is copied into a Concat."""
    channels = next(
        c for c in range(16, 256) if 9 * c * c > KERNEL + 2 * GUIDED * c * SIZE**2 + 4 * GUIDED * c * SIZE**2 + KERNEL
    )
    for count, in_float in ((channels - 1, {"down"}), (channels, set[str]())):
        graph = block(count)
        assert find_slower_operations(graph, select_ops_to_lower(graph)) == in_float


def test_a_norm_and_its_silu_are_rounded_bare() -> None:
    """Multipliers and zero points in widening of that rounding would be a kernel. After a modulation they are not."""
    graph = block()
    placed = place_roundings(graph, select_ops_to_lower(graph))
    assert "a" in placed.bare and "b" not in placed.bare
    assert placed.pooled == {"a", "b", "total"}  # what a convolution reads


def test_a_graph_that_would_be_all_float_stays_int8() -> None:
    graph = block()
    ops = tuple(op for op in select_ops_to_lower(graph) if op.name == "down")
    assert find_slower_operations(graph, ops) == frozenset()


def test_an_activation_function_between_two_layers_costs_what_their_weights_save() -> None:
    """In float the layer in widening fuses the function. Wide layers have few weights for the values between them."""
    for rows, in_float in ((16, set[str]()), (256, {"wide", "narrow"})):
        b = Builder(1)
        b.add("MatMul", ("x", b.random("stem", 32, 32, scale=0.2)), "stemmed")
        normed = b.add("LayerNormalization", ("stemmed", b.random("scale", 32, scale=1)), "norm")
        b.constants |= {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
        b.add("MatMul", (normed, "w1"), "wide")
        gelu = b.add("Gelu", (b.add("Add", ("wide", "bias"), "biased"),), "gelu")
        third = b.add(
            "MatMul", (b.silu(b.add("MatMul", (gelu, "w2"), "narrow"), "s"), b.random("w3", 32, 32, scale=1)), "third"
        )
        b.add("MatMul", (b.silu(third, "t"), b.random("last", 32, 32, scale=1)), "output")
        graph = b.graph(rows, 32)
        ops = select_ops_to_lower(graph)
        assert {op.name for op in ops} == {"wide", "narrow", "third"}
        assert find_slower_operations(graph, ops) == in_float


def test_a_norm_without_scales_rounds_with_its_silu_too() -> None:
    b = Builder(2)
    b.constants |= {name: np.ones(4, np.float32) for name in ("ones", "zeros")}
    b.constants |= {"groups": np.array([0, 4, -1]), "picture": np.array([0, 16, SIZE, SIZE])}
    grouped = b.add("Reshape", (b.conv("x", "stem", 3, 16), "groups"), "grouped")
    normed = b.add("InstanceNormalization", (grouped, "ones", "zeros"), "normed")
    activation = b.silu(b.add("Reshape", (normed, "picture"), "norm"), "silu")
    inner = b.conv(activation, "inner", 16, 16)
    b.add("Identity", (b.conv(b.silu(inner, "s"), "out", 16, 3),), "output")
    graph = b.graph(3, SIZE, SIZE)
    assert place_roundings(graph, select_ops_to_lower(graph)).bare == {activation}


def block_of_convolutions(channels: int, wide: int, op: str) -> Graph:
    """A norm's scale and shift, two pointwise convolutions with an activation function between, and a sum."""
    b = Builder(2)
    b.constants |= {name: np.ones((channels, 1, 1), np.float32) for name in ("gamma", "beta")}
    stem = b.conv("x", "stem", 3, channels)
    normed = b.add("Add", (b.add("Mul", (stem, "gamma"), "scaled"), "beta"), "normed")
    activated = b.add(op, (b.conv(normed, "widening", channels, wide, kernel=1),), "activated")
    total = b.add("Add", (b.conv(activated, "narrowing", wide, channels, kernel=1), stem), "total")
    after = b.conv(b.add("Gelu", (total,), "alone"), "after", channels, channels)
    b.add("Identity", (b.conv(after, "out", channels, 3),), "output")
    return b.graph(3, SIZE, SIZE)


def test_a_convolution_is_int8_where_its_activation_function_is_in_its_kernel() -> None:
    """The operation that reads the function needs a separate kernel for rounding, which its weights have to pay for.
    With few channels neither operation is int8.
    """
    wide = 64
    least = 2 * GUIDED * wide * SIZE**2 // (GUIDED * SIZE**2 + 2 * wide)
    enough = (2 * GUIDED * wide * SIZE**2 + KERNEL) // wide + 1
    for channels, in_float in (
        (least, {"widening", "narrowing"}),
        (least + 1, {"narrowing"}),
        (enough - 1, {"narrowing"}),
        (enough, set[str]()),
    ):
        for op in ("Gelu", "Relu", "Tanh", "Sigmoid"):
            graph = block_of_convolutions(channels, wide, op)
            ops = select_ops_to_lower(graph)
            assert {each.name for each in ops} == {"widening", "narrowing", "after"}
            assert find_slower_operations(graph, ops) == in_float


def test_a_gelu_after_a_convolution_has_the_form_with_tanh() -> None:
    graph = block_of_convolutions(16, 64, "Gelu")
    forms = {
        node.output: node.attributes.get("approximate") for node in approximate_gelu(graph).nodes if node.op == "Gelu"
    }
    assert forms == {"activated": "tanh", "alone": None}
