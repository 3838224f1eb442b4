"""A third-party ONNX file: from torch's previous exporter, opset 17, with other names."""

from pathlib import Path

from tests.export.networks.other_exporters import written

NAME = "An ONNX file (FILE.onnx)"
PLAN = "dpmpp_2m:2@karras"


def make(folder: Path) -> dict[str, object]:
    source, spec = written(folder, opset=17, is_new=False)
    return {"source": source, "spec": spec}
