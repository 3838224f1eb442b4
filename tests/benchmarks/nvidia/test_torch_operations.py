"""Operations of bodies as calls of torch, compared with ONNX's reference implementation."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from benchmarks.nvidia.cudnn.executor import check_operations
from benchmarks.nvidia.cudnn.torch_operations import call_of
from fewstep.graph.graph import Node
from fewstep.plans.errors import UserError
from tests.onnx_text import written

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 6, 4)).astype(np.float32)
POOL = {"kernel_shape": [2, 3], "strides": [2, 1]}


@pytest.mark.parametrize(
    ("op", "attributes"),
    [("Elu", {"alpha": 0.5}), ("AveragePool", POOL), ("DepthToSpace", {"blocksize": 2, "mode": b"CRD"})],
)
def test_calls_compute_what_onnx_defines(op: str, attributes: dict[str, Any]) -> None:
    node = onnx.helper.make_node(op, ["x"], ["y"], **attributes)
    (expected,) = ReferenceEvaluator(node).run(None, {"x": IMAGES})
    found = call_of(Node(op, ("x",), ("y",), attributes), {})(torch.from_numpy(IMAGES))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("AveragePool", POOL | {"pads": [0, 1, 0, 1]}),
        ("AveragePool", POOL | {"ceil_mode": 1}),
        ("AveragePool", POOL | {"dilations": [2, 1]}),
        ("AveragePool", {"kernel_shape": [2]}),
        ("DepthToSpace", {"blocksize": 2, "mode": b"DCR"}),
        ("Selu", {}),
    ],
)
def test_other_forms_are_refused_by_name(op: str, attributes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=op):
        call_of(Node(op, ("x",), ("y",), attributes), {})


def test_a_graph_is_checked_before_it_is_sent_to_a_gpu() -> None:
    with pytest.raises(UserError, match="operation Selu has no form"):
        check_operations(written("(float[2, 3] x) => (float[2, 3] y) { a = Relu(x) y = Selu(a) }"))
