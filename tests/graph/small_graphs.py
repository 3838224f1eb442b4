"""Graphs of a few nodes, and how to compare two of them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fewstep.graph.graph import Array, Graph
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.session import run
from tests.bundles import node as node
from tests.bundles import small as small
from tests.bundles import value as value
from tests.onnx_text import graph_of_text

BATCH_SIZES = (1, 2, 5)


def feeds(graph: Graph, batch: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        v.name: rng.standard_normal([batch if isinstance(dim, str) else dim for dim in v.shape]).astype(v.dtype)
        for v in graph.inputs
    }


def assert_same(before: Graph, after: Graph, rtol: float = 0.0) -> None:
    """Equal outputs at several batch sizes; with `rtol`, up to that share of the largest value."""
    for batch in BATCH_SIZES:
        given = feeds(before, batch)
        expected, found = run(before, given), run(after, given)
        assert_close(expected, {name: found[name] for name in expected}, rtol)


def assert_close(expected: Mapping[str, Array], found: Mapping[str, Array], rtol: float) -> None:
    for name, array in expected.items():
        assert array.shape == found[name].shape and array.dtype == found[name].dtype
        np.testing.assert_allclose(found[name], array, rtol=0, atol=rtol * float(np.max(np.abs(array), initial=0)))


def assert_rewritten(
    rewrite: Callable[[Graph], Graph], text: str, ops: str | None, rtol: float = 0.0, **constants: Any
) -> Graph:
    """Assert that a pass turns a graph into these operations in ONNX's text, with the same function up to `rtol`;
    None: the graph stays.

    Returns the result of the pass, without unused nodes.
    """
    before = graph_of_text(text, **constants)
    after = rewrite(before)
    if ops is None:
        assert after.nodes == before.nodes
        return after
    after = drop_unused(after)
    assert after.ops() == tuple(ops.split())
    assert {*after.constants} <= {name for each in after.nodes for name in each.inputs}
    assert_same(before, after, rtol)
    return after
