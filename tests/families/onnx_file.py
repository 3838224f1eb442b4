"""An ONNX file from elsewhere: opset 17, one scalar time, names of its own."""

import json
from pathlib import Path

import numpy as np

NAME = "An ONNX file (FILE.onnx)"
PLAN = "ddim:2@trailing"
CHANNELS, SIZE, WIDTH, LABELS = 2, 8, 16, 5


def make(folder: Path) -> dict[str, object]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "first": weight(WIDTH, CHANNELS, 3, 3),
        "middle": weight(WIDTH, WIDTH, 3, 3),
        "last": weight(CHANNELS, WIDTH, 3, 3),
        "table": weight(LABELS, WIDTH),
        "thousandth": np.array(1e-3, np.float32),
        "axes": np.array([0], np.int64),
        "planes": np.array([-1, WIDTH, 1, 1], np.int64),
        "columns": np.array([-1, 1, 1, 1], np.int64),
    }
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Cast", ["timestep"], ["t"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["t", "thousandth"], ["part"]),
        helper.make_node("Unsqueeze", ["part", "axes"], ["one"]),
        helper.make_node("Shape", ["sample"], ["size"], start=0, end=1),
        helper.make_node("Expand", ["one", "size"], ["times"]),
        helper.make_node("Reshape", ["times", "columns"], ["shift"]),
        helper.make_node("Gather", ["table", "class_labels"], ["row"]),
        helper.make_node("Reshape", ["row", "planes"], ["label"]),
        helper.make_node("Conv", ["sample", "first"], ["a"], **same),
        helper.make_node("Add", ["a", "label"], ["b"]),
        helper.make_node("Add", ["b", "shift"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "middle"], ["e"], **same),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Conv", ["f", "last"], ["out_sample"], **same),
    ]
    image = ["n", CHANNELS, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "elsewhere",
        [
            helper.make_tensor_value_info("sample", TensorProto.FLOAT, image),
            helper.make_tensor_value_info("timestep", TensorProto.INT64, []),
            helper.make_tensor_value_info("class_labels", TensorProto.INT64, ["n"]),
        ],
        [helper.make_tensor_value_info("out_sample", TensorProto.FLOAT, image)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "own.onnx")
    spec = {
        "name": "elsewhere",
        "x_shape": [CHANNELS, SIZE, SIZE],
        "prediction": "v",
        "schedule": {"kind": "linear"},
        "conditions": [{"name": "class", "input": "class_labels", "low": 0, "high": LABELS - 1}],
        "x": "sample",
        "time": "timestep",
        "output": "out_sample",
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return {"source": str(folder / "own.onnx"), "spec": folder / "spec.json"}
