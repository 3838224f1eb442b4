"""Shapes and sizes that become constants, for every batch."""

from typing import Any

import numpy as np
import pytest

from fewstep.graph.graph import BATCH, Graph
from fewstep.graph.passes.batch import free_batch
from fewstep.graph.passes.constants import drop_unused, fold_constants
from fewstep.graph.passes.shape_reads import reroute_shape_reads
from fewstep.graph.passes.shapes import fold_shapes
from fewstep.graph.prepare import prepare
from fewstep.graph.session import run
from fewstep.graph.types import infer_types
from tests.graph.small_graphs import assert_rewritten, assert_same
from tests.onnx_text import graph_of_text


def fold(graph: Graph) -> Graph:
    for _ in range(3):
        graph = drop_unused(fold_constants(fold_shapes(graph)))
    return graph


BATCH_OF_X = "size = Shape<start=0, end=1>(x)"
HEADS = """(float[batch, 20, 6] x) => (float[batch, n, 2, 3] y) {
    shape = Shape(x) size = Gather<axis=0>(shape, zero) sizes = Unsqueeze(size, axis)
    target = Concat<axis=0>(sizes, open, two, three) y = Reshape(x, target)
}"""  # their number left open: what inference cannot divide by a batch that it does not know
GROUP_NORM = """(float[batch, 6, 4, 5] x) => (float[batch, 6, 4, 5] y) {
    grouped = Reshape(x, groups) normal = InstanceNormalization(grouped, ones, zeros)
    shape = Shape(x) y = Reshape(normal, shape)
}"""  # as exporters write it: back to the shape of x, whatever it is
FLATTENED = """(float[batch, 6, 4, 5] x) => (float[batch, 6, 20] y) {
    shape = Shape(x) size = Gather<axis=0>(shape, place) target = Concat<axis=0>(size, rest) y = Reshape(x, target)
}"""
FOLDED_HEADS = """(float[batch, 3, 4, 5] x) => (float[any, 4, 5] y) {
    shape = Shape(x) tail = Slice(shape, start, end) target = Concat<axis=0>(open, tail) y = Reshape(x, target)
}"""  # heads merged into the batch: the one axis that is neither the batch nor a number
SCALED_BY_CHANNELS = """(float[batch, 6] x) => (float[batch, 6] y) {
    shape = Shape<start=1>(x) channels = Gather<axis=0>(shape, zero)
    number = Cast<to=1>(channels) root = Sqrt(number) y = Div(x, root)
}"""
EXPANDED = f"""(float[batch, 1, 5] x) => (float[batch, 3, 5] y)
{{ {BATCH_OF_X} target = Concat<axis=0>(size, rest) y = Expand(x, target) }}"""
NUMBERS = {"zero": np.int64(0)} | {
    name: np.int64(each)
    for name, each in {
        **{"axis": [0], "place": [0], "open": [-1], "two": [2], "three": [3], "start": [2], "end": [4]},
        **{"groups": [0, 2, -1], "rest": [6, 20]},
    }.items()
}


@pytest.mark.parametrize(
    ("text", "ops", "target", "constants"),
    [
        (HEADS, "Reshape", [0, 20, 2, 3], {}),
        (GROUP_NORM, "Reshape InstanceNormalization Reshape", [0, 6, 4, 5], {"ones": [1.0, 1.0], "zeros": [0.0, 0.0]}),
        (FLATTENED, "Reshape", [0, 6, 20], {}),
        (FOLDED_HEADS, "Reshape", [-1, 4, 5], {}),
        (SCALED_BY_CHANNELS, "Div", None, {}),
        (EXPANDED, "Expand", [1, 3, 1], {"rest": np.int64([3, 5])}),
    ],
    ids=["heads", "group-norm", "flattened", "folded-heads", "scaled-by-channels", "expanded"],
)
def test_no_shape_arithmetic_is_left(text: str, ops: str, target: list[int] | None, constants: dict[str, Any]) -> None:
    after = assert_rewritten(fold, text, ops, **{**NUMBERS, **constants})
    assert target is None or after.constants[after.nodes[-1].inputs[1]].tolist() == target


def test_a_constant_that_is_repeated_for_each_sample_keeps_the_batch() -> None:
    """Register tokens besides the tokens of a sample."""
    text = f"""(float[batch, 2, 3] x) => (float[batch, 5, 3] y) {{
        {BATCH_OF_X} repeats = Concat<axis=0>(size, one, one)
        tiled = Tile(tokens, repeats) y = Concat<axis=1>(tiled, x)
    }}"""
    registers = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    after = assert_rewritten(fold, text, "Shape Concat Expand Concat", one=np.int64([1]), tokens=registers)
    assert infer_types(after).shape(after.nodes[2].output) == ("batch", 3, 3)


@pytest.mark.parametrize(
    "text",
    [
        """(float[batch, ?] x, float[batch, ?] like) => (float[batch, ?] y)
        { target = Shape(like) y = Expand(x, target) }""",  # two sizes that nobody knows are not taken for one
        """(float[batch, width, 4] x) => (float[batch, 4, width] y)
        { shape = Shape(x) target = Gather<axis=0>(shape, order) y = Reshape(x, target) }""",
    ],
    ids=["unknown", "dynamic"],
)
def test_a_second_dynamic_dimension_keeps_its_arithmetic(text: str) -> None:
    before = graph_of_text(text, order=np.int64([0, 2, 1]))
    after = fold(before)
    assert after.ops() == before.ops()
    assert_same(before, after)


def tokens(source: str, reader: str = "time") -> Graph:
    """A learned token next to a projection of the time (or of a condition), then a layer over both, added to x. The
    batch of the token is read off `source`, as exporters write `expand(len(...), 1, 4)`."""
    return graph_of_text(
        f"""(float[batch, 4] x, float[batch, 1] time, float[batch, 1] text) => (float[batch, 4] y) {{
            squared = Mul(x, x)
            size = Shape<start=0, end=1>({source})
            given = Concat<axis=0>(size, one, four)
            is_open = Equal(given, open)
            sizes = Where(is_open, ones, given)
            learned = Expand(token, sizes)
            flat = MatMul({reader}, w)
            timed = Unsqueeze(flat, axis)
            both = Concat<axis=1>(timed, learned)
            mixed = MatMul(both, v)
            row = ReduceMean<keepdims=0>(mixed, axis)
            y = Add(squared, row)
        }}""",
        one=np.int64([1]),
        four=np.int64([4]),
        open=np.int64([-1, -1, -1]),
        ones=np.int64([1, 1, 1]),
        axis=np.int64([1]),
        token=np.float32([[[1, 2, 3, 4]]]),
        w=np.float32([[4, 3, 2, 1]]),
        v=np.arange(16, dtype=np.float32).reshape(4, 4),
    )


@pytest.mark.parametrize("source", ["x", "squared"])
@pytest.mark.parametrize("reader", ["time", "text"])
def test_what_x_has_no_part_in_reads_the_batch_off_its_own_input(source: str, reader: str) -> None:
    before = tokens(source, reader)
    after = reroute_shape_reads(before)
    assert [node.inputs for node in after.nodes if node.op == "Shape"] == [(source,), (reader,)]
    assert_same(before, after)
    prepared = prepare(before)
    assert prepared.prologue is not None
    assert prepared.prologue.ops().count("MatMul") == 2 and prepared.body.ops() == ("Mul", "Add")


def test_sizes_of_what_a_reader_follows_from_anyway_stay() -> None:
    for graph in (tokens("time"), tokens("flat"), tokens("text", "text")):
        assert reroute_shape_reads(graph) is graph


def test_a_condition_does_not_read_the_batch_of_the_time() -> None:
    """Otherwise it would move from the conditioner to the prologue, which runs at every time."""
    after = reroute_shape_reads(tokens("time", "text"))
    assert [node.inputs for node in after.nodes if node.op == "Shape"] == [("time",), ("text",)]


def assert_reads_the_same(before: Graph) -> None:
    assert [node.inputs for node in reroute_shape_reads(before).nodes] == [node.inputs for node in before.nodes]


def test_one_time_for_all_samples_keeps_the_batch_of_x() -> None:
    """A prologue that expanded it would give all steps of a plan the first time."""
    before = graph_of_text(
        f"""(float[batch, 4] x, float[batch] time) => (float[batch, 4] y) {{
            one = Gather<axis=0>(time, first) {BATCH_OF_X} all = Expand(one, size)
            row = Unsqueeze(all, last) y = Add(x, row)
        }}""",
        first=np.int64(0),
        last=np.int64([1]),
    )
    assert_reads_the_same(before)
    assert prepare(before).prologue is None


def test_sizes_that_its_own_input_lacks_stay() -> None:
    ports = "(float[batch, length] x, float[batch, 1] time) => (float[batch, length] y)"
    assert_reads_the_same(graph_of_text(f"{ports} {{ size = Shape(x) wide = Expand(time, size) y = Add(x, wide) }}"))


def test_a_size_that_the_input_lacks_is_copied_in_no_round() -> None:
    """A length is free, and the time has only the batch: the sizes are half the time's, and stay so."""
    before = graph_of_text(
        f"""(float[batch, length, 4] x, float[batch, 1] time) => (float[batch, length, 4] y) {{
            {BATCH_OF_X} long = Shape<start=1, end=2>(x) sizes = Concat<axis=0>(size, long, four)
            learned = Expand(token, sizes)
            flat = MatMul(time, w) timed = Unsqueeze(flat, axis)
            mixed = Add(timed, learned) y = Add(x, mixed)
        }}""",
        four=np.int64([4]),
        axis=np.int64([1]),
        token=np.float32([[[1, 2, 3, 4]]]),
        w=np.float32([[4, 3, 2, 1]]),
    )
    once = reroute_shape_reads(before)
    assert_same(before, once)
    assert [node.outputs for node in reroute_shape_reads(once).nodes] == [node.outputs for node in once.nodes]


MIX = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)


def fold_heads(batch: int) -> Graph:
    """Heads are folded into the batch and out of it, as in attention: [B, 4, 3] -> [2 B, 2, 3] -> [B, 4, 3]."""
    return graph_of_text(
        f"""(float[{batch}, 4, 3] x, float[{batch}] row) => (float[{batch}, 4, 3] y) {{
            heads = Reshape(x, folded) mixed = MatMul(heads, mix) joined = Reshape(mixed, whole)
            shift = Reshape(row, column) sum = Add(joined, shift)
            weights = Reshape(mix, flat) number = ReduceSum<keepdims=0>(weights) y = Mul(sum, number)
        }}""",
        mix=MIX,
        folded=np.array([2 * batch, 2, 3]),
        whole=np.array([batch, 4, 3]),
        column=np.array([batch, 1, 1]),
        flat=np.array([9]),
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_each_sample_gets_what_it_got_in_the_fixed_batch(batch: int) -> None:
    freed = free_batch(fold_heads(batch))
    assert [value.shape[0] for value in (*freed.inputs, *freed.outputs)] == [BATCH] * 3
    x, row = np.random.default_rng(1).standard_normal((6, 4, 3)).astype(np.float32), np.arange(6, dtype=np.float32)
    found = run(freed, {"x": x, "row": row})["y"]
    for start in range(0, 6, batch):
        part = slice(start, start + batch)
        np.testing.assert_allclose(
            found[part], run(fold_heads(batch), {"x": x[part], "row": row[part]})["y"], rtol=1e-6
        )


def test_what_does_not_depend_on_the_inputs_keeps_its_shape() -> None:
    freed = free_batch(fold_heads(1))
    (flat,) = (node for node in freed.nodes if node.outputs == ("weights",))
    assert freed.constants[flat.inputs[1]].tolist() == [9]
