"""Exact int8 sums on this machine: its kernels, and the stand-in for those that saturate."""

import numpy as np
import pytest

from fewstep.calibration.lowering.targets import load_target
from fewstep.graph.graph import Array, Graph, Node, Value
from fewstep.graph.session import open_session, run
from fewstep.graph.weight_quantization import quantize_weight
from tests import exact_int8
from tests.exact_int8 import EXACT_TARGET, SATURATES, largest_pair_sum, open_exact, unsigned_weights

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
    graph, expected = product(kernel, {"cpu-x86": 127, "cpu-x86-no-vnni": 64}[EXACT_TARGET])
    np.testing.assert_array_equal(run(graph, feeds(graph))["y"].reshape(expected.shape), expected)


@pytest.mark.parametrize("channels", [16, 18, 50, 130, 17, 131])
@pytest.mark.parametrize("kernel", ["MatMulIntegerToFloat", "QLinearConv", "QLinearConv of two groups"])
def test_limited_pairs_have_exact_sums_on_every_cpu(kernel: str, channels: int) -> None:
    """Kernels for several numbers of channels, which pair inputs by themselves: codes are 0 or 255, and weights are as
    large as pairs may be."""
    rng, groups = np.random.default_rng(channels), 1 + kernel.endswith("groups")
    taps = () if kernel.startswith("MatMul") else (3, 3)
    weights = quantize_weight(rng.choice([-1.0, 1.0, 0.1], (32, channels, *taps)).astype(np.float32), 0, in_pairs=True)
    assert largest_pair_sum(weights.values, 0) == 128
    values = weights.values if taps else weights.values.T.copy()
    x = 255 * rng.integers(0, 2, (6, groups * channels, *([5, 5] if taps else [])), np.uint8)
    constants = {
        "w": values,
        "scales": np.ones(32, np.float32),
        "zeros": np.zeros(32, np.int8),
        "one": np.array(1, np.float32),
        "x_zero": np.array(0, np.uint8),
        "y_zero": np.array(128, np.uint8),
        "y_scale": np.array(2.0**13, np.float32),
    }
    names = INPUTS[kernel.split()[0]].replace("y_scale x_zero", "y_scale y_zero").split()
    name, domain, attributes = ("QLinearConv", "", {"group": groups}) if taps else (kernel, "com.microsoft", {})
    exact = run(
        Graph(
            "exact",
            (Value("x", np.dtype(np.float32), x.shape),),
            (Value("y", np.dtype(np.float32), ("B", *"CDE"[: x.ndim - 1])),),
            (Node("Conv", ("x", "w"), ("y",), {"group": groups}) if taps else Node("MatMul", ("x", "w"), ("y",)),),
            {"w": values.astype(np.float32)},
        ),
        {"x": x.astype(np.float32)},
    )["y"]
    expected = np.clip(np.rint(exact / 2.0**13) + 128, 0, 255) if taps else exact
    y = Value("y", np.dtype(np.uint8 if taps else np.float32), exact.shape)
    node = Node(name, tuple(names), ("y",), attributes, domain=domain)
    graph = Graph(kernel, (Value("x", x.dtype, x.shape),), (y,), (node,), {key: constants[key] for key in names[1:]})
    for optimize in (False, True):
        np.testing.assert_array_equal(open_session(graph, optimize=optimize)({"x": x})["y"], expected)
