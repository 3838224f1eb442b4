"""A fixed batch, made dynamic: the same values for each sample, whatever the batch."""

import numpy as np
import pytest

from fewstep.graph.graph import BATCH, Graph, Node, Value
from fewstep.graph.passes.batch import free_batch
from fewstep.graph.session import run

FLOAT = np.dtype(np.float32)
MIX = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)


def fixed(batch: int) -> Graph:
    """Heads are folded into the batch and out again, as attention does: [B, 4, 3] -> [2 B, 2, 3] -> [B, 4, 3]."""
    nodes = (
        Node("Reshape", ("x", "folded"), ("heads",)),
        Node("MatMul", ("heads", "mix"), ("mixed",)),
        Node("Reshape", ("mixed", "whole"), ("joined",)),
        Node("Reshape", ("row", "column"), ("shift",)),
        Node("Reshape", ("mix", "flat"), ("weights",)),
        Node("ReduceSum", ("weights",), ("number",), {"keepdims": 0}),
        Node("Add", ("joined", "shift"), ("sum",)),
        Node("Mul", ("sum", "number"), ("y",)),
    )
    constants = {
        "mix": MIX,
        "folded": np.array([2 * batch, 2, 3]),
        "whole": np.array([batch, 4, 3]),
        "column": np.array([batch, 1, 1]),
        "flat": np.array([9]),
    }
    inputs = (Value("x", FLOAT, (batch, 4, 3)), Value("row", FLOAT, (batch,)))
    return Graph("fixed", inputs, (Value("y", FLOAT, (batch, 4, 3)),), nodes, constants)


@pytest.mark.parametrize("batch", [1, 2])
def test_each_sample_gets_what_it_got_in_the_fixed_batch(batch: int) -> None:
    freed = free_batch(fixed(batch))
    assert [value.shape[0] for value in (*freed.inputs, *freed.outputs)] == [BATCH] * 3
    x, row = np.random.default_rng(1).standard_normal((6, 4, 3)).astype(FLOAT), np.arange(6, dtype=FLOAT)
    found = run(freed, {"x": x, "row": row})["y"]
    for start in range(0, 6, batch):
        part = slice(start, start + batch)
        np.testing.assert_allclose(found[part], run(fixed(batch), {"x": x[part], "row": row[part]})["y"], rtol=1e-6)


def test_what_does_not_depend_on_the_inputs_keeps_its_shape() -> None:
    freed = free_batch(fixed(1))
    (flat,) = (node for node in freed.nodes if node.outputs == ("weights",))
    assert freed.constants[flat.inputs[1]].tolist() == [9]
