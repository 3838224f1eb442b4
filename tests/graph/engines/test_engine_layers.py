"""Reading the types of convolutions from what TensorRT's inspector says, in the forms of 10 and of 11."""

import json
from typing import Any

import pytest

from fewstep.graph.engines.engine_layers import convolutions


def layer(name: str, kind: str = "CaskConvolution", **more: Any) -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, **more}


def told(*layers: Any) -> bytes:
    return json.dumps({"Layers": layers, "Bindings": ["x", "output"]}).encode()


def test_weights_tell_the_type_and_inputs_where_there_are_none() -> None:
    def input_of(**fields: str) -> dict[str, Any]:
        return {"Inputs": [{"Name": "x", "Dimensions": [-1, 16, 8, 8], **fields}, {"Name": "skip"}]}

    unknown = input_of(**{"Format/Datatype": "N/A due to dynamic shapes"})
    assert convolutions(
        told(
            layer("a", Weights={"Type": "Int8", "Count": 9}, **unknown),
            layer("b", Weights={"Type": "Half", "Count": 9}, **unknown),
            layer("c", **input_of(**{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."})),
            layer("d", **input_of(**{"Format/Datatype": "Row major linear FP32"})),
            layer("e", **input_of(DataType="Half", Format="Channel major FP16 format (kHWC8)")),
            layer("f", "gemm", ParameterType="Convolution", Weights={"Type": "Float"}),
            layer("g", **unknown),
            layer("reformat", "Reformat", **input_of(**{"Format/Datatype": "Row major linear FP32"})),
        )
    ) == {"a": "int8", "b": "float16", "c": "int8", "d": "float32", "e": "float16", "f": "float32"}


@pytest.mark.parametrize(
    "said", [b"", b"[]", b"{}", b'{"Layers": ["only a name"]}', b'{"Layers": [{"LayerType": null}]}']
)
def test_what_is_not_understood_says_nothing(said: bytes) -> None:
    assert convolutions(said) == {}
