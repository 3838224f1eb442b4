"""An operation that OpenVINO cannot read is named with its node."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.graph.files.io import save
from fewstep.graph.graph import Graph
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.openvino import read_model
from tests.onnx_text import graph_of_text

openvino = pytest.importorskip("openvino")

WRAP = """(float[batch, 2, 4, 4] x) => (float[batch, 2, 6, 6] y)
    { padded = Pad<mode="wrap">(x, pads) h = Conv(padded, w) y = Relu(h) }"""
SPECTRUM = "(float[batch, 16] x) => (float[batch, 3, 5, 2] y) { y = STFT(x, step, , length) }"


def refusal(graph: Graph, folder: Path) -> UserError:
    save(graph, folder / "graph.onnx")
    with pytest.raises(UserError) as failure:
        read_model(openvino.Core(), folder / "graph.onnx")
    return failure.value


def test_the_mode_it_lacks_is_named_and_not_what_follows(tmp_path: Path) -> None:
    graph = graph_of_text(WRAP, pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]), w=np.zeros((2, 2, 1, 1)))
    error = refusal(graph, tmp_path)
    assert error.what.endswith("cannot read graph.onnx: Pad of node 'padded' (Unsupported padding mode: [wrap])")
    assert error.fix == "replace that operation by others, or run the bundle on ONNX Runtime"


def test_the_operation_it_lacks_is_named(tmp_path: Path) -> None:
    error = refusal(graph_of_text(SPECTRUM, step=np.array(4), length=np.array(8)), tmp_path)
    assert "cannot read graph.onnx: STFT of node 'y' (Shape of signal input must be static" in error.what


def test_a_file_that_is_no_graph_has_no_fix(tmp_path: Path) -> None:
    file = tmp_path / "graph.onnx"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="cannot read graph.onnx: Unable to read the model") as failure:
        read_model(openvino.Core(), file)
    assert failure.value.fix == ""
