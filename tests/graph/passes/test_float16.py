"""What an operation takes in float16, by its definition."""

import onnx
import pytest

from fewstep.graph.graph import Node
from fewstep.graph.passes.float16 import takes_half
from tests.graph.small import node


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
