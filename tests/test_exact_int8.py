"""Exact int8 sums on this machine: its kernels, and the stand-in for those that saturate."""

import numpy as np
import pytest

from fewstep.calibration.lowering.targets import load_target
from fewstep.graph.graph import Array, Graph, Node, Value
from fewstep.graph.session import open_session, run
from tests import exact_int8
from tests.exact_int8 import EXACT_TARGET, SATURATES, open_exact, unsigned_weights

ROWS, DEPTH, COLUMNS = 8, 64, 16
X = np.random.default_rng(0).integers(0, 256, (ROWS, DEPTH), np.uint8)
SIGNS = np.random.default_rng(1).choice([-1, 1], (DEPTH, COLUMNS))
INPUTS = {
    "MatMulInteger": "x w x_zero",
    "MatMulIntegerToFloat": "x w one scales x_zero zeros",
    "QLinearConv": "x one x_zero w scales zeros y_scale x_zero",
}
every_kernel = pytest.mark.parametrize("kernel", INPUTS)


def product(kernel: str, largest: int) -> tuple[Graph, Array]:
    """Return a graph of one kernel, and its exact output: x less its zero point, times weights of -`largest` or
    `largest`. QLinearConv returns codes, of a scale of 256."""
    weights = (largest * SIGNS).astype(np.int8)
    constants = {
        "w": weights.T[..., None, None].copy() if kernel == "QLinearConv" else weights,
        "scales": np.ones(COLUMNS, np.float32),
        "zeros": np.zeros(COLUMNS, np.int8),
        "one": np.array(1, np.float32),
        "x_zero": np.array(128, np.uint8),
        "y_scale": np.array(256, np.float32),
    }
    sums = (X.astype(np.int64) - 128) @ weights.astype(np.int64)
    names, pixel = tuple(INPUTS[kernel].split()), (1, 1) if kernel == "QLinearConv" else ()
    dtype, expected, domain = {
        "MatMulInteger": (np.int32, sums, ""),
        "MatMulIntegerToFloat": (np.float32, sums, "com.microsoft"),
        "QLinearConv": (np.uint8, np.clip(np.round(sums / 256) + 128, 0, 255), ""),
    }[kernel]
    x, y = Value("x", X.dtype, (ROWS, DEPTH, *pixel)), Value("y", np.dtype(dtype), (ROWS, COLUMNS, *pixel))
    node = Node(kernel, names, ("y",), domain=domain)
    return Graph(kernel, (x,), (y,), (node,), {name: constants[name] for name in names[1:]}), expected


def feeds(graph: Graph) -> dict[str, Array]:
    return {"x": X.reshape([ROWS, DEPTH, *graph.inputs[0].shape[2:]])}


@every_kernel
def test_kernels_of_this_cpu_saturate_exactly_where_its_instructions_say_so(kernel: str) -> None:
    graph, expected = product(kernel, 127)
    for optimize in (False, True):
        sums = open_session(graph, optimize=optimize)(feeds(graph))["y"]
        assert np.array_equal(sums.reshape(expected.shape), expected) is not SATURATES


@every_kernel
def test_unsigned_weights_have_the_same_sums_exactly(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_int8, "SATURATES", True)
    graph, expected = product(kernel, 127)
    (node,), constants = unsigned_weights(graph).nodes, unsigned_weights(graph).constants
    assert not [name for name in node.inputs if name in constants and constants[name].dtype == np.int8]
    sums = open_exact(graph)(feeds(graph))["y"]
    np.testing.assert_array_equal(sums.reshape(expected.shape), expected)


@every_kernel
def test_wide_sums_are_exact_on_every_cpu(kernel: str) -> None:
    graph, expected = product(kernel, 127)
    for opened in (open_session(graph, optimize=True, wide_sums=True), load_target("cpu-x86").runs(graph)):
        sums = opened(feeds(graph))["y"]
        np.testing.assert_array_equal(sums.reshape(expected.shape), expected)


@every_kernel
def test_weights_of_the_exact_target_have_exact_sums(kernel: str) -> None:
    graph, expected = product(kernel, {"cpu-x86": 127, "cpu-x86-7bit": 64}[EXACT_TARGET])
    np.testing.assert_array_equal(run(graph, feeds(graph))["y"].reshape(expected.shape), expected)
