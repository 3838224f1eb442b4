"""Files of torch's two exporters, of several opsets: no operation is left in float or in the loop without need."""

from collections import Counter
from pathlib import Path

import pytest

from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.export.load_source import load_source
from fewstep.graph.prepare import prepare
from fewstep.graph.selection import FEW_CHANNELS, explain_selection
from tests.export.networks.other_exporters import written

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("opset", "is_new"), [(17, False), (20, False), (18, True), (20, True)])
def test_what_stays_in_float_and_in_the_loop_is_no_matter_of_the_file(tmp_path: Path, opset: int, is_new: bool) -> None:
    prepared = prepare(load_source(*written(tmp_path, opset, is_new)).trace().graph)
    body = prepared.body
    work, shares = count_operation_macs(body), Counter[str]()
    ops = explain_selection(body)
    for op, reason in ops:
        shares[reason] += work[op.name] / sum(work.values())
    assert set(shares) == {"", FEW_CHANNELS} and shares[""] > 0.92
    others = [node.op for node in body.nodes if node.output in work.keys() - {op.name for op, _ in ops}]
    assert others == ["MatMul", "MatMul"]  # attention's products of activations
    assert prepared.prologue is not None
    assert prepared.prologue.ops().count("Gemm") + prepared.prologue.ops().count("MatMul") == 4
    assert not {"Einsum", "Shape", "Expand", "Gemm"} & set(body.ops())
