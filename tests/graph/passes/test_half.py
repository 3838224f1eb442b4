"""Graphs in a 16-bit float type, and the inputs of an operation in it, by its definition."""

from typing import Any

import numpy as np
import onnx
import pytest

from fewstep.graph.graph import Node
from fewstep.graph.half_types import BFLOAT16, FLOAT16, largest_number, smallest_normal, smallest_number
from fewstep.graph.passes.half import round_weight, takes_half
from tests.graph.small_graphs import node


@pytest.mark.parametrize(
    ("operation", "position", "takes"),
    [
        (node("Conv", "x w", "y"), 1, True),
        (node("Resize", "x roi scales", "y"), 2, False),  # of float32, whatever x is
        (node("Concat", "a b c", "y", axis=1), 2, True),  # more inputs than the definition names
    ],
)
def test_the_definition_says_where_an_operation_takes_float16(operation: Node, position: int, takes: bool) -> None:
    assert takes_half(operation, position) == takes


def test_what_onnx_does_not_define_is_taken_to() -> None:
    fused = Node("FusedConv", ("x", "w"), ("y",), domain="com.microsoft")
    with pytest.raises(onnx.defs.SchemaError):
        onnx.defs.get_schema(fused.op, domain=fused.domain)
    assert takes_half(fused, 1)


@pytest.mark.parametrize(
    ("half", "largest", "normal", "least"),
    [(FLOAT16, 65504.0, 2.0**-14, 2.0**-24), (BFLOAT16, 255 * 2.0**120, 2.0**-126, 2.0**-133)],
)
def test_weights_beyond_the_type_become_its_ends(
    half: np.dtype[Any], largest: float, normal: float, least: float
) -> None:
    """A tiny element of a tensor becomes 0. A tiny single number, which may be an epsilon, becomes the smallest number
    of the type. Infinities stay: a mask of -inf leaves no key, and one of the lowest number leaves all keys equal.
    """
    assert (largest_number(half), smallest_normal(half), smallest_number(half)) == (largest, normal, least)
    with np.errstate(over="ignore"):
        given = np.array([-np.inf, -3.4028e38, 1.0, 1e-45 if half == BFLOAT16 else 1e-12], np.float32)
    found = round_weight(given, half).astype(np.float64)
    assert found.tolist() == [-np.inf, -largest, 1.0, 0.0]
    assert float(round_weight(given[3:], half)[0]) == least
