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
from tests.onnx_text import graph_of_text

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 6, 4)).astype(np.float32)
POOL = {"kernel_shape": [2, 3], "strides": [2, 1]}


def compute_reference(op: str, inputs: dict[str, np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
    """Return the output of one node. Its inputs have types, since Gelu's definition depends on them."""
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(each.dtype), each.shape)
        for name, each in inputs.items()
    ]
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node(op, list(inputs), ["y"], **attributes)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "one", values, [output]))
    return np.asarray(ReferenceEvaluator(model).run(None, inputs)[0])


@pytest.mark.parametrize(
    ("op", "attributes", "others"),
    [
        ("AveragePool", POOL, []),
        ("DepthToSpace", {"blocksize": 2, "mode": b"CRD"}, []),
        ("Elu", {"alpha": 0.5}, []),
        ("Gelu", {"approximate": b"none"}, []),
        ("Gelu", {"approximate": b"tanh"}, []),
        ("InstanceNormalization", {"epsilon": 1e-3}, [IMAGES[0, :, 0, 0], IMAGES[1, :, 0, 0]]),
        ("LayerNormalization", {"epsilon": 1e-3}, [IMAGES[0, 0, 0], IMAGES[1, 0, 0]]),
        ("Pad", {}, [np.array([0, 0, 1, 0, 0, 0, 2, 3]), np.float32(0.5)]),
        ("Slice", {}, [np.array([1, 0]), np.array([7, 6]), np.array([1, 2]), np.array([1, 2])]),
        ("Softmax", {"axis": 1}, []),
    ],
)
def test_calls_compute_what_onnx_defines(op: str, attributes: dict[str, Any], others: list[Any]) -> None:
    constants = {f"c{number}": np.asarray(each) for number, each in enumerate(others)}
    expected = compute_reference(op, {"x": IMAGES, **constants}, attributes)
    call = call_of(Node(op, ("x", *constants), ("y",), attributes), constants)
    found = call(torch.from_numpy(IMAGES), *map(torch.from_numpy, constants.values()))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


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
        check_operations(graph_of_text("(float[2, 3] x) => (float[2, 3] y) { a = Relu(x) y = Selu(a) }"))
