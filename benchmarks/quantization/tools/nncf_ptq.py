"""NNCF: `python nncf_ptq.py FOLDER SETTING OUTPUT`, in an environment that has nncf and onnx.

defaults: `nncf.quantize`, all evaluations as its dataset, one row an item: its default range is the mean over items of
each one's smallest and largest value. outer: the same, first and last layers in float. tuned: the preset "mixed"
(asymmetric activations) that it advises for activations other than ReLU, on the operations that ours runs in int8.
tuned-minmax: the same with the smallest and largest value of all items. tuned-transformer: on these operations, as
OpenVINO's notebooks do it for denoisers, with the model type "transformer" (the preset "mixed", and SmoothQuant) and
without bias correction. Its exact bias correction fails on a residual block whose shortcut is a convolution (nncf
3.4.0: the graph that it cuts out lacks the shortcut's output), so bias correction is the fast one. Prints its version.
"""

import json
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import nncf  # type: ignore[import-not-found, unused-ignore]
import numpy as np
import onnx
from nncf.quantization.range_estimator import (  # type: ignore[import-not-found, unused-ignore]
    RangeEstimatorParametersSet,
)


def rows(folder: Path) -> Iterator[tuple[Path, int]]:
    """Return every row of every evaluation: its file, and its place in it."""
    for path in sorted(folder.glob("*.npz")):
        batch = next(iter(read(path).values()))
        yield from ((path, row) for row in range(len(batch)))


def one_row(item: tuple[Path, int]) -> dict[str, Any]:
    path, row = item
    return {name: value[row : row + 1] for name, value in read(path).items()}


@lru_cache(maxsize=1)  # rows are asked for in order
def read(path: Path) -> dict[str, Any]:
    return dict(np.load(path))


def main(folder: Path, setting: str, output: Path) -> None:
    operations = json.loads((folder / "operations.json").read_text())
    items = list(rows(folder / "feeds"))
    dataset = nncf.Dataset(items, one_row)
    chosen: dict[str, Any] = {}
    if setting == "outer":
        chosen = {"ignored_scope": nncf.IgnoredScope(names=operations["outer"], validate=False)}
    elif setting != "defaults":
        left = sorted({*operations["all"]} - {*operations["ours"]["openvino"]})
        chosen = {"ignored_scope": nncf.IgnoredScope(names=left, validate=False)}
    if setting in ("tuned", "tuned-minmax"):
        chosen |= {"preset": nncf.QuantizationPreset.MIXED}
    if setting == "tuned-minmax":
        advanced = nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        )
        chosen |= {"advanced_parameters": advanced}
    if setting == "tuned-transformer":
        advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
        chosen |= {"model_type": nncf.ModelType.TRANSFORMER, "advanced_parameters": advanced}
    quantized = nncf.quantize(onnx.load(folder / "float.onnx"), dataset, subset_size=len(items), **chosen)
    onnx.save(quantized, output)
    print(f"nncf {nncf.__version__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
