"""Files of torch's two exporters, of several opsets, lose nothing to float, and nothing to the loop."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.calibration.lowering.coverage import macs
from fewstep.export.export import load_source
from fewstep.graph.prepare import prepare
from fewstep.graph.selection import FEW_CHANNELS, considered_ops
from tests.export.networks.other_exporters import NAMES, SIZE, Network

pytestmark = pytest.mark.slow
SPEC: dict[str, Any] = {
    "name": "stranger",
    "x_shape": [3, SIZE, SIZE],
    "prediction": "sample",
    "schedule": {"kind": "exploding", "sigma_min": 0.01, "sigma_max": 80.0},
    "conditions": [{"name": "class", "input": "label", "low": 0, "high": 9}],
    **{"x": "sample", "time": "sigma", "output": "out"},
}


def written(folder: Path, opset: int, is_new: bool) -> tuple[str, Path]:
    torch.manual_seed(0)
    example = (torch.randn(2, 3, SIZE, SIZE), torch.rand(2) + 0.5, torch.tensor([1, 2]))
    form: dict[str, Any] = {"dynamic_axes": {name: {0: f"n_{name}"} for name in (*NAMES, "out")}}
    if is_new:
        form = {"dynamic_shapes": ({0: (batch := torch.export.Dim("batch"))}, {0: batch}, {0: batch})}
    names = {"input_names": NAMES, "output_names": ["out"]}
    file = folder / "stranger.onnx"
    torch.onnx.export(Network().eval(), example, file, opset_version=opset, dynamo=is_new, **names, **form)
    (folder / "spec.json").write_text(json.dumps(SPEC))
    return str(file), folder / "spec.json"


@pytest.mark.parametrize(("opset", "is_new"), [(17, False), (20, False), (18, True), (20, True)])
def test_what_stays_in_float_and_in_the_loop_is_no_matter_of_the_file(tmp_path: Path, opset: int, is_new: bool) -> None:
    prepared = prepare(load_source(*written(tmp_path, opset, is_new)).trace().graph)
    body = prepared.body
    work, shares = macs(body), Counter[str]()
    ops = considered_ops(body)
    for op, reason in ops:
        shares[reason] += work[op.name] / sum(work.values())
    assert set(shares) == {"", FEW_CHANNELS} and shares[""] > 0.92
    others = [node.op for node in body.nodes if node.output in work.keys() - {op.name for op, _ in ops}]
    assert others == ["MatMul", "MatMul"]  # attention's products of activations
    assert prepared.prologue is not None
    assert prepared.prologue.ops().count("Gemm") + prepared.prologue.ops().count("MatMul") == 4
    assert not {"Einsum", "Shape", "Expand", "Gemm"} & set(body.ops())
