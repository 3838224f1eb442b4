"""A graph that is opened for each size of its calls."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fewstep.runtime.backends import Arrays
from fewstep.runtime.backends.shape_cache import ShapeCache
from fewstep.runtime.bundle.manifest import GraphEntry, TensorEntry
from tests.refusals import refuses

INPUTS = (TensorEntry("x", "float32", ("batch", 4)), TensorEntry("row", "float32", ("batch", 1)))


@pytest.mark.parametrize("names", [("x",), ("row",), (), ("x", "row", "more")])
def test_a_call_with_other_inputs_opens_and_closes_nothing(names: tuple[str, ...]) -> None:
    opened: list[dict[str, int]] = []

    def make(sizes: dict[str, int]) -> Any:
        opened.append(sizes)
        return lambda feeds: {}

    feeds: Arrays | Mapping[str, Any] = {name: np.zeros((3, 4), np.float32) for name in ("x", "row", "more")}
    graph = ShapeCache(GraphEntry("graph.onnx", INPUTS, INPUTS[:1]), make)
    graph({name: feeds[name] for name in ("x", "row")})
    with refuses("graph.onnx was called with the inputs", "row, x"):
        graph({name: feeds[name] for name in names})
    assert opened == [{"batch": 3}] and list(graph.opened) == [(3,)]
