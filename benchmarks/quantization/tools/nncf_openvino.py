"""NNCF on OpenVINO's own models: `python nncf_openvino.py GRAPH FEEDS SETTING OUTPUT`, where nncf and openvino are.

GRAPH is an ONNX file of any size, FEEDS a .npz with one evaluation, by input, and OUTPUT an .xml file. Every input gets
the shape that it has in FEEDS. defaults: `nncf.quantize` as it is. transformer: the model type "transformer", as
OpenVINO's notebooks quantize denoisers. Both leave out bias correction, which changes no time and takes most of it.
Prints the version.
"""

import sys
from pathlib import Path
from typing import Any

import nncf  # type: ignore[import-not-found, unused-ignore]
import numpy as np
import openvino

SETTINGS: dict[str, dict[str, Any]] = {"defaults": {}, "transformer": {"model_type": nncf.ModelType.TRANSFORMER}}


def main(graph: Path, feeds: Path, setting: str, output: Path) -> None:
    given = dict(np.load(feeds))
    model = openvino.Core().read_model(graph)
    names = {name for port in model.inputs for name in port.get_names()}
    given = {name: array for name, array in given.items() if name in names}
    model.reshape({name: list(array.shape) for name, array in given.items()})
    advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    dataset = nncf.Dataset([given])
    quantized = nncf.quantize(model, dataset, subset_size=1, advanced_parameters=advanced, **SETTINGS[setting])
    openvino.save_model(quantized, output)
    print(f"nncf {nncf.__version__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
