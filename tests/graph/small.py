"""Graphs of a few nodes, and how to compare two of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fewstep.graph.graph import Array, Graph, Node, Value
from fewstep.graph.session import run

BATCH_SIZES = (1, 2, 5)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Node:
    """node("Add", "x bias", "y"); "-" stands for an input left out."""
    names = tuple("" if name == "-" else name for name in inputs.split())
    return Node(op, names, tuple(outputs.split()), attributes, outputs.split()[0])


def value(name: str, *shape: int | str, dtype: str = "float32") -> Value:
    return Value(name, np.dtype(dtype), shape)


def small(inputs: list[Value], outputs: list[Value], nodes: list[Node], **constants: Any) -> Graph:
    """A graph; constants given as Python floats or lists of them become float32."""
    arrays = {name: np.asarray(array) for name, array in constants.items()}
    arrays = {name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in arrays.items()}
    return Graph("small", tuple(inputs), tuple(outputs), tuple(nodes), arrays)


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
