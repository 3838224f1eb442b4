"""Which operations read a tensor, and by which weights."""

from collections import Counter

import numpy as np
import pytest

from fewstep.calibration.ranges.readers import readers_of
from fewstep.graph.selection import selected_ops
from tests.calibration.lowering.bodies.small_body import body
from tests.calibration.lowering.bodies.uneven_body import layer


def test_each_int8_operation_that_reads_a_tensor_is_one_of_its_readers() -> None:
    graph = body()
    read = readers_of(graph)
    counts = Counter(op.x for op in selected_ops(graph))
    assert counts and {name: len(read(name)) for name in counts} == counts
    assert read("x") == () == read("nothing")  # the layer that sees x stays in float


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gemm transB", "Conv", "grouped Conv"])
def test_a_reader_has_the_weights_of_each_channel(kind: str) -> None:
    graph = layer(kind)
    node = next(each for each in graph.nodes if each.inputs[0] == "a")
    weight, groups = graph.constants[node.inputs[1]], node.attributes.get("group", 1)
    axis = 0 if node.op == "Conv" or node.attributes.get("transB") else 1
    rows = np.moveaxis(weight, axis, 0)
    found = readers_of(graph)("a")
    assert len(found) == groups and sum(each.squares.sum() for each in found) == pytest.approx(np.square(rows).sum())
    for number, each in enumerate(found):
        part = np.split(rows, groups)[number].reshape(len(rows) // groups, rows.shape[1], -1)
        assert each.channels == slice(number * rows.shape[1], (number + 1) * rows.shape[1])
        assert each.taps == part.shape[2]
        np.testing.assert_array_equal(each.largest, np.abs(part).max(axis=2))
        np.testing.assert_allclose(each.squares, np.square(part).sum(axis=(0, 2)), rtol=1e-6)
