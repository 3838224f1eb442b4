"""The prepared graph of a real architecture: its nodes decide the speed of every step."""

from collections import Counter

import pytest

from fewstep.graph.index import index
from tests.export.denoisers import Exported


@pytest.mark.slow
def test_the_body_holds_no_operation_it_does_not_need(unet: Exported) -> None:
    """Three residual blocks, one attention, one resizing: counted by hand from the network's forward."""
    counts = Counter(unet.prepared.body.ops())
    norms, shortcuts = 8, 1  # the shortcut is over a Concat, and takes two convolutions
    assert counts["InstanceNormalization"] == norms
    assert counts["Sigmoid"] == norms - 1  # no SiLU after the norm of the attention
    assert counts["Conv"] == 11 + shortcuts  # with equal widths no other block has a shortcut
    assert counts["Reshape"] == 2 * norms + 4  # attention: tokens, heads, and back
    assert counts["Mul"] == norms + norms - 1 + 1  # one scale a norm, one a SiLU, one for the attention
    assert counts["Add"] == norms + 3 + shortcuts + 11 + 3  # shifts, residuals, split shortcuts, biases, attention
    assert counts["Transpose"] == 5
    assert set(counts) <= {
        *("Conv", "InstanceNormalization", "Sigmoid", "Reshape", "Mul", "Add", "Transpose"),
        *("Concat", "Resize", "MatMul", "Softmax", "Gather"),
    }


def test_all_of_time_and_class_leaves_the_body(unet: Exported) -> None:
    body, prologue = unet.prepared.body, unet.prepared.prologue
    assert prologue is not None
    rows = body.inputs[1:]
    assert len(rows) == 6 and rows == prologue.outputs  # scale and shift of three blocks
    assert all(row.shape[0] == "batch" and row.shape[2:] == (1, 1) for row in rows)
    moving = index(body).dependents(["x"])
    assert all(not moving.isdisjoint(node.inputs) for node in body.nodes)


def test_no_weight_is_lost_or_kept_twice(unet: Exported) -> None:
    prologue, body = unet.prepared.prologue, unet.prepared.body
    assert prologue is not None
    sizes = [a.size for graph in (prologue, body) for a in graph.constants.values() if a.dtype.kind == "f"]
    parameters = sum(p.numel() for p in unet.source.module.parameters())
    assert parameters <= sum(sizes) <= parameters + 200  # time frequencies, ones and zeros of the norms


@pytest.mark.parametrize("op", ["QuickGelu", "FusedMatMul"])
def test_onnxruntime_recognises_the_portable_forms(unet: Exported, op: str, tmp_path: object) -> None:
    """SiLU as x * sigmoid(x), and attention's scale and transposition, become one kernel each."""
    import onnx
    import onnxruntime as ort

    from fewstep.graph.files.io import to_model

    options = ort.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/optimized.onnx"
    options.log_severity_level = 3
    ort.InferenceSession(to_model(unet.prepared.body).SerializeToString(), options, ["CPUExecutionProvider"])
    fused = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert fused[op] >= 1 and fused["Sigmoid"] == 0
