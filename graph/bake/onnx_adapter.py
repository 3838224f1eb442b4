"""Write LoRA files in the format that onnxruntime loads together with a baked file: one `.onnx_adapter` for any number
of LoRA files."""

from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from fewstep.graph.session import report_ort_errors
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.lora.file import read_lora
from fewstep.runtime.sampling.adapters import slot_inputs

SUFFIX = ".onnx_adapter"
VERSION = 1  # versions of the adapter and of its model, which onnxruntime stores for programs


def write_onnx_adapter(bundle: Bundle, files: Sequence[str], baked: Path) -> Path:
    """Write the slot values of LoRA files, each `FILE[:STRENGTH][@NETWORK]`, next to a file baked from the bundle;
    return the path.

    C++ loads it as `Ort::LoraAdapter`, Python as `onnxruntime.LoraAdapter`. Raises UserError for files that do not fit.
    """
    by_network = slot_inputs(bundle, [read_lora(text) for text in files])
    graphs = [own for by_graph in by_network.values() for own in by_graph.values()]
    inputs = {name: array for own in graphs for name, array in own.items()}
    output = baked.with_suffix(SUFFIX)
    with report_ort_errors(f"write {output.name}", "check its folder, and the space left"):
        adapter = ort.AdapterFormat()
        adapter.set_adapter_version(VERSION)
        adapter.set_model_version(VERSION)
        adapter.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()})
        adapter.export_adapter(str(output))
    return output
