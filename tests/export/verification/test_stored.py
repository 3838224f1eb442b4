"""Written weights in 8 and 4 bits against those from which they were rounded."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from fewstep.export.verification.stored import check_stored_weights, measure_ratio
from fewstep.graph.graph import Graph
from fewstep.graph.passes.stored_weights import store_nearest
from fewstep.plans.errors import UserError
from tests.graph.small_graphs import node, small, value


def network() -> Graph:
    """An embedding, two products of the same shape, and a convolution, of a graph without x."""
    rng = np.random.default_rng(0)
    constants = {
        "table": rng.standard_normal((600, 64)).astype(np.float32),
        "v": rng.standard_normal((64, 80)).astype(np.float32),
        "w": rng.standard_normal((64, 80)).astype(np.float32),
        "b": rng.standard_normal(80).astype(np.float32),
        "k": rng.standard_normal((16, 64, 3)).astype(np.float32),
    }
    nodes = [
        node("Gather", "table ids", "h"),
        node("MatMul", "h v", "hv"),
        node("MatMul", "h w", "hw"),
        node("Add", "hw b", "hwb"),
        node("Mul", "hv hwb", "p"),
        node("Transpose", "h", "t", perm=[0, 2, 1]),
        node("Conv", "t k", "c", kernel_shape=[3]),
    ]
    outputs = [value("p", "batch", 5, 80), value("c", "batch", 16, 3)]
    return small([value("ids", "batch", 5, dtype="int64")], outputs, nodes, **constants)


@pytest.mark.parametrize("bits", [4, 8])
def test_nearest_weights_are_accepted(bits: Literal[4, 8]) -> None:
    graph = network()
    written = store_nearest(graph, bits)
    assert written.ops().count("MatMulNBits") == (2 if bits == 4 else 0)
    check_stored_weights(written, graph)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["table", "v", "w", "k", "b"])
def test_a_changed_weight_is_named(bits: Literal[4, 8], name: str) -> None:
    graph = network()
    written, array = store_nearest(graph, bits), graph.constants[name].copy()
    array.flat[7] += 2 * np.abs(array).max()
    with pytest.raises(UserError, match=f"weight '{name}' as written is not that of the source"):
        check_stored_weights(written, replace(graph, constants={**graph.constants, name: array}))


@pytest.mark.parametrize("bits", [4, 8])
def test_exchanged_weights_are_refused(bits: Literal[4, 8]) -> None:
    graph = network()
    v, w = graph.constants["v"], graph.constants["w"]
    written = store_nearest(replace(graph, constants={**graph.constants, "v": w, "w": v}), bits)
    with pytest.raises(UserError, match="weight 'v'"):
        check_stored_weights(written, graph)


def test_the_ratio_of_signal_and_error() -> None:
    exact = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    assert measure_ratio(exact, exact + 0.1 * noise, "it") == pytest.approx(20, abs=0.1)
    assert measure_ratio(exact, exact, "it") == np.inf
    with pytest.raises(UserError, match=r"output of it with rounded weights is -3\.0 dB above its error"):
        measure_ratio(exact, noise, "it")
