"""A small denoiser in the different forms of ONNX files."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from tests.onnx_text import parse_graph

CHANNELS, SIZE, LABELS = 2, 4, 5


def model(
    *,
    opset: int = 20,
    batch: int | str = "n",
    time: str = "vector",
    dtype: Any = np.float32,
    time_type: str = "",
    returned: int = CHANNELS,
    weights: Any = None,
) -> onnx.ModelProto:
    """out = conv(x) * scale[label] + tokens(x) + time / 1000, as exporters write it: reshapes, expands, casts."""
    rng = np.random.default_rng(0)
    kind = "float16" if np.dtype(dtype) == np.float16 else "float"
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
    times = {"scalar": "", "one": "[1]"}
    spread = "one = Unsqueeze(part, zero) size = Shape<start=0, end=1>(sample) times = Expand(one, size)"
    made = parse_graph(
        f"""elsewhere (
            {kind}[{batch}, {CHANNELS}, {SIZE}, {SIZE}] sample,
            {time_type or kind}{times.get(time, f"[{batch}]")} timestep,
            int64[{batch}] label
        ) => ({kind}[{batch}, {returned}, {SIZE}, {SIZE}] out) {{
            t = Cast<to={TensorProto.DataType.Value(kind.upper())}>(timestep)
            part = Mul(t, thousandth)
            {spread if time == "scalar" else "times = Identity(part)"}
            shift = Reshape(times, columns)
            row = Gather(table, label)
            scale = Reshape(row, planes)
            [first] h = Conv<pads=[1, 1, 1, 1]>(sample, weight)
            scaled = Mul(h, scale)
            tokens = Reshape(sample, tokens_shape)
            mixed = MatMul(tokens, mix)
            summed = ReduceSum<keepdims=0>(mixed, axis)
            image = Reshape(summed, image_shape)
            sum = Add(scaled, image)
            out = Add(sum, shift)
        }}""",
        opset,
        **constants,
    )
    onnx.checker.check_model(made)
    return made


def rename_tensors(proto: onnx.ModelProto, **names: str) -> onnx.ModelProto:
    """Return the model with renamed tensors."""
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = names.get(value.name, value.name)
    return proto
