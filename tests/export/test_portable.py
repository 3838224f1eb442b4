"""Export warns of operations that no engine parses, with the module that contains them."""

import numpy as np
import pytest

from fewstep.export.graph_warnings import warn_of_operations
from fewstep.graph.cuts.prologue import PreparedDenoiser
from fewstep.graph.graph import Graph, Node, Value


def test_an_operation_that_tensorrt_lacks_is_a_warning_that_names_the_module(caplog: pytest.LogCaptureFixture) -> None:
    x, y = (Value(name, np.dtype(np.float32), ("batch", 4, 4)) for name in ("x", "output"))
    nodes = (Node("Relu", ("x",), ("h",)), Node("Det", ("h",), ("output",), name="head.scale/Det"))
    warn_of_operations(PreparedDenoiser(None, Graph("body", (x,), (y,), nodes, {})))
    (record,) = caplog.records
    assert record.message == (
        "no TensorRT parses Det, of node 'head.scale/Det', so no engine for TensorRT 10.3 can be built; "
        "replace that operation by others, or run the bundle on ONNX Runtime"
    )
