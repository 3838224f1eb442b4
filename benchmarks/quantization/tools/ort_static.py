"""onnxruntime: `python ort_static.py FOLDER SETTING OUTPUT`, in an environment that has it and onnx.

defaults: what `quantize_static` does when only asked to. outer: the same, first and last layers in float. tuned: as its
documentation advises for x86 with VNNI (activations uint8, weights int8 per channel), on the operations that ours runs
in int8. tuned-percentile, tuned-entropy: with these calibration methods. Prints its version.
"""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

METHODS = {"tuned-percentile": CalibrationMethod.Percentile, "tuned-entropy": CalibrationMethod.Entropy}


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    """Every evaluation of every trajectory, one file at a time."""

    def __init__(self, folder: Path) -> None:
        self.paths: Iterator[Path] = iter(sorted(folder.glob("*.npz")))

    def get_next(self) -> dict[str, Any] | None:
        path = next(self.paths, None)
        return None if path is None else dict(np.load(path))


def main(folder: Path, setting: str, output: Path) -> None:
    logging.getLogger().setLevel(logging.ERROR)  # it advises preprocessing that prepared graphs already have
    operations = json.loads((folder / "operations.json").read_text())
    chosen: dict[str, Any] = {}
    if setting == "outer":
        chosen = {"nodes_to_exclude": operations["outer"]}
    elif setting != "defaults":
        chosen = {
            "per_channel": True,
            "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QInt8,
            "op_types_to_quantize": ["Conv", "MatMul", "Gemm"],
            "nodes_to_quantize": operations["ours"]["onnxruntime"],
            "calibrate_method": METHODS.get(setting, CalibrationMethod.MinMax),
        }
    quantize_static(folder / "float.onnx", output, Feeds(folder / "feeds"), **chosen)
    print(f"onnxruntime {onnxruntime.__version__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
