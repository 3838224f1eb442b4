"""ModelOpt: `python modelopt_ptq.py FOLDER SETTING OUTPUT`, in an environment that has nvidia-modelopt.

defaults: `modelopt.onnx.quantization.quantize` in int8 (entropy), everything that is not int8 in float32, as the
simulation of the other contenders has it. outer: the same, first and last layers in float. tuned: its other method,
"max", on the operations that ours runs in int8. tuned-entropy: on these operations, with entropy. Prints its version.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modelopt  # type: ignore[import-not-found, unused-ignore]
import numpy as np
from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found, unused-ignore]
from onnxruntime.quantization import CalibrationDataReader


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    """Yields every evaluation of every trajectory, one file at a time, and can be rewound, since ModelOpt reads them
    twice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rewind()

    def rewind(self) -> None:
        self.paths: Iterator[Path] = iter(sorted(self.folder.glob("*.npz")))

    def get_next(self) -> dict[str, Any] | None:
        path = next(self.paths, None)
        return None if path is None else dict(np.load(path))

    def get_first(self) -> dict[str, Any]:
        return dict(np.load(min(self.folder.glob("*.npz"))))


def main(folder: Path, setting: str, output: Path) -> None:
    operations = json.loads((folder / "operations.json").read_text())
    chosen: dict[str, Any] = {}
    if setting == "outer":
        chosen = {"nodes_to_exclude": [f"^{re.escape(name)}$" for name in operations["outer"]]}
    elif setting != "defaults":
        chosen = {"nodes_to_quantize": [f"^{re.escape(name)}$" for name in operations["ours"]["tensorrt"]]}
    if setting == "tuned":
        chosen["calibration_method"] = "max"
    quantize(
        str(folder / "float.onnx"),
        quantize_mode="int8",
        calibration_data_reader=Feeds(folder / "feeds"),
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(output),
        log_level="ERROR",
        **chosen,
    )
    print(f"nvidia-modelopt {modelopt.__version__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
