"""The tiny bundle with a body whose height and width are free, and a picture that follows them."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from fewstep.runtime.bundle.manifest import Condition, Size
from fewstep.runtime.bundle.reading import open_bundle

HEIGHT, WIDTH = Size("height", 1, low=2, high=12, multiple=2), Size("width", 2, low=4, high=8, multiple=4)
PICTURE = Condition("picture", "picture", (1, 8, 4), "float32", follows={1: "height*2", 2: "width"})


def body() -> bytes:
    """v = x / 2 + row + the upper half of the picture."""
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["halved"]),
        helper.make_node("Reshape", ["row", "planes"], ["plane"]),
        helper.make_node("Add", ["halved", "plane"], ["sum"]),
        helper.make_node("Split", ["picture"], ["upper", "lower"], axis=2, num_outputs=2),
        helper.make_node("Add", ["sum", "upper"], ["v"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, "height", "width"]),
        helper.make_tensor_value_info("row", TensorProto.FLOAT, ["batch", 1]),
        helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["batch", 1, "height*2", "width"]),
    ]
    outputs = [helper.make_tensor_value_info("v", TensorProto.FLOAT, ["batch", 1, "height", "width"])]
    constants = {"half": np.float32(0.5), "planes": np.array([-1, 1, 1, 1])}
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "body", inputs, outputs, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return made.SerializeToString()


def free(folder: Path, **changes: object) -> Path:
    """Change the tiny bundle in this folder, and fields of its manifest."""
    manifest = open_bundle(folder).manifest
    (folder / "graphs/body.onnx").write_bytes(body())
    document = msgspec.json.decode(msgspec.json.encode(manifest))
    x, row = document["bodies"]["float32"]["graphs"][0]["inputs"]
    x["shape"] = ["batch", 1, "height", "width"]
    (output,) = document["bodies"]["float32"]["graphs"][0]["outputs"]
    output["shape"] = x["shape"]
    picture = {"name": "picture", "role": "condition", "shape": ["batch", 1, "height*2", "width"], "dtype": "float32"}
    document["bodies"] = {"float32": document["bodies"]["float32"]}
    document["bodies"]["float32"]["graphs"][0]["inputs"] = [x, row, picture]
    document["conditions"].append(msgspec.json.decode(msgspec.json.encode(PICTURE)))
    document["sizes"] = msgspec.to_builtins((HEIGHT, WIDTH))
    document["files"]["graphs/body.onnx"] = hashlib.sha256(body()).hexdigest()
    (folder / "manifest.json").write_bytes(msgspec.json.encode(document | changes))
    return folder
