"""A small denoiser in the forms that ONNX files come in."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIZE, LABELS = 2, 4, 5


def model(
    *,
    opset: int = 20,
    batch: int | str = "n",
    time: str = "vector",
    dtype: Any = np.float32,
    time_dtype: int | None = None,
    returned: int = CHANNELS,
    weights: Any = None,
) -> onnx.ModelProto:
    """out = conv(x) * scale[label] + tokens(x) + time / 1000, as exporters write it: reshapes, expands, casts."""
    rng = np.random.default_rng(0)
    half = np.dtype(dtype) == np.float16
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    time_dtype = time_dtype or kind
    fixed = batch if isinstance(batch, int) else -1
    constants = {
        "weight": rng.standard_normal((returned, CHANNELS, 3, 3)).astype(dtype) if weights is None else weights,
        "table": rng.standard_normal((LABELS, returned)).astype(dtype),
        "mix": rng.standard_normal((SIZE * SIZE, SIZE * SIZE)).astype(dtype) / SIZE,
        "thousandth": np.array(1e-3, dtype),
        "zero": np.array([0], np.int64),
        "batch_axis": np.array([0], np.int64),
        "tokens_shape": np.array([fixed, CHANNELS, SIZE * SIZE], np.int64),
        "image_shape": np.array([fixed, 1, SIZE, SIZE], np.int64),
        "planes": np.array([fixed, returned, 1, 1], np.int64),
        "columns": np.array([-1 if time == "one" else fixed, 1, 1, 1], np.int64),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["timestep"], ["t"], to=kind),
        helper.make_node("Mul", ["t", "thousandth"], ["part"]),
    ]
    if time == "scalar":
        nodes += [
            helper.make_node("Unsqueeze", ["part", "zero"], ["one"]),
            helper.make_node("Shape", ["sample"], ["size"], start=0, end=1),
            helper.make_node("Expand", ["one", "size"], ["times"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["part"], ["times"]))
    nodes += [
        helper.make_node("Reshape", ["times", "columns"], ["shift"]),
        helper.make_node("Gather", ["table", "label"], ["row"]),
        helper.make_node("Reshape", ["row", "planes"], ["scale"]),
        helper.make_node("Conv", ["sample", "weight"], ["h"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Mul", ["h", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["sample", "tokens_shape"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "mix"], ["mixed"]),
        helper.make_node("ReduceSum", ["mixed", "axis"], ["summed"], keepdims=0),
        helper.make_node("Reshape", ["summed", "image_shape"], ["image"]),
        helper.make_node("Add", ["scaled", "image"], ["sum"]),
        helper.make_node("Add", ["sum", "shift"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "elsewhere",
        [
            helper.make_tensor_value_info("sample", kind, [batch, CHANNELS, SIZE, SIZE]),
            helper.make_tensor_value_info("timestep", time_dtype, {"scalar": [], "one": [1]}.get(time, [batch])),
            helper.make_tensor_value_info("label", TensorProto.INT64, [batch]),
        ],
        [helper.make_tensor_value_info("out", kind, [batch, returned, SIZE, SIZE])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made)
    return made
