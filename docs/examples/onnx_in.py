"""Make a bundle from a denoiser that is already an ONNX file, without torch.

    python docs/examples/onnx_in.py FOLDER

The example creates a file with random weights, in place of one that somebody else exported. It has a fixed batch, and
takes the time as one integer for all samples. The spec adds what the file does not contain: schedule, prediction and
names.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.runtime import UserError, load

SPEC = {
    "name": "noise-finder",
    "x_shape": [1, 8, 8],
    "conditions": [],
    "prediction": "epsilon",
    "schedule": {"kind": "scaled-linear", "timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012},
    "x": "sample",
    "time": "timestep",
    "output": "out_sample",
}


def somebody_elses_model() -> onnx.ModelProto:
    """Return a model that computes out_sample = conv(sample) + timestep / 1000."""
    weights = np.random.default_rng(0).standard_normal((1, 1, 3, 3)).astype(np.float32) / 3
    nodes = [
        helper.make_node("Cast", ["timestep"], ["t"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["t", "axis"], ["times"]),
        helper.make_node("Reshape", ["times", "column"], ["shift"]),
        helper.make_node("Mul", ["shift", "thousandth"], ["small"]),
        helper.make_node("Conv", ["sample", "weights"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["h", "small"], ["out_sample"]),
    ]
    constants = {
        "weights": weights,
        "axis": np.array([0]),
        "column": np.array([1, 1, 1, 1]),
        "thousandth": np.float32(1e-3),
    }
    graph = helper.make_graph(
        nodes,
        "somebody-elses",
        [
            helper.make_tensor_value_info("sample", TensorProto.FLOAT, [1, 1, 8, 8]),
            helper.make_tensor_value_info("timestep", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info("out_sample", TensorProto.FLOAT, [1, 1, 8, 8])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main(folder: str) -> None:
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    onnx.save(somebody_elses_model(), home / "model.onnx")
    (home / "spec.json").write_text(json.dumps(SPEC))

    export(ExportOptions(source=str(home / "model.onnx"), spec=home / "spec.json", output=home / "bundle"))
    with load(home / "bundle") as sampler:
        x = sampler.sample("dpmpp_2m:8", seeds=range(4))
    print(f"{home / 'bundle'}: random weights, {len(x)} samples at once, from a file that takes one")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/examples/onnx_in.py FOLDER")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"onnx_in: {error}")
