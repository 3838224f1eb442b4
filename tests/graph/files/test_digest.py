"""A digest covers all constants of a graph, of any type."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from fewstep.graph.files.digest import digest, structure_digest
from tests.bundles import node, small, value

TYPES = [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int8, np.bool_]
GRAPH = small([value("x", 2)], [value("y", 2)], [node("Identity", "x", "y")])


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
def test_constants_of_any_type_and_shape_are_digested(kind: type, shape: tuple[int, ...]) -> None:
    """numpy has no buffer of bfloat16."""
    zeros, ones = (replace(GRAPH, constants={"w": np.full(shape, number, kind)}) for number in (0, 1))
    for of in (digest, structure_digest):
        assert of(zeros) == of(replace(zeros, constants={"w": np.zeros(shape, kind)}))
        assert (of(zeros) == of(ones)) is (shape == (0,))


def test_strings_are_digested() -> None:
    """Custom operations may contain strings, and so may an unused constant of an ONNX file."""
    one, same, other = (replace(GRAPH, constants={"w": np.array(words, object)}) for words in (["a"], ["a"], ["b"]))
    assert digest(one) == digest(same) != digest(other)
