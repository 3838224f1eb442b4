"""Mish with a sigmoid, beside the function itself in float64."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.graph.graph import Graph, Node
from fewstep.graph.passes.mish import expand_mish
from fewstep.graph.session import run
from tests.graph.small import assert_same, node, small, value


def graph(*nodes: Node) -> Graph:
    return small([value("x", "batch", 64)], [value("y", "batch", 64)], list(nodes))


WRITTEN_OUT = (node("Softplus", "x", "p"), node("Tanh", "p", "t"))
FORMS = {
    "Mish": graph(node("Mish", "x", "y")),
    "x tanh": graph(*WRITTEN_OUT, node("Mul", "x t", "y")),
    "tanh x": graph(*WRITTEN_OUT, node("Mul", "t x", "y")),
}


@pytest.mark.parametrize("before", FORMS.values(), ids=FORMS)
def test_it_is_the_same_function(before: Graph) -> None:
    after = expand_mish(before)
    assert sorted(after.ops()) == ["Div", "Mul", "Mul", "Sigmoid", "Sub", "Sub"]
    assert_same(before, after, rtol=1e-6)


def test_it_is_mish_at_any_size() -> None:
    x = np.concatenate([-np.geomspace(1e-6, 1e4, 32), np.geomspace(1e-6, 1e30, 32)])[None]
    found = run(expand_mish(FORMS["Mish"]), {"x": x.astype(np.float32)})["y"]
    expected = x * np.tanh(np.logaddexp(0.0, x))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)  # below -18 a sigmoid of onnxruntime is 0


def test_what_others_read_too_stays() -> None:
    twice = graph(*WRITTEN_OUT, node("Mul", "x t", "m"), node("Add", "m p", "y"))
    after = expand_mish(twice)
    assert "Softplus" in after.ops() and "Tanh" not in after.ops()
    assert_same(twice, after, rtol=1e-6)


def test_a_factor_that_the_graph_returns_stays() -> None:
    y = FORMS["x tanh"]
    before = replace(y, outputs=(*y.outputs, value("t", "batch", 64)))
    after = expand_mish(before)
    assert after.ops()[:2] == ("Softplus", "Tanh")
    assert_same(before, after, rtol=1e-6)


def test_an_operation_of_another_domain_stays() -> None:
    before = graph(replace(node("Mish", "x", "y"), domain="com.example"))
    assert expand_mish(before).nodes == before.nodes


@pytest.mark.parametrize("other", ["t t", "p t"])
def test_other_products_stay(other: str) -> None:
    before = graph(*WRITTEN_OUT, node("Mul", other, "y"))
    assert expand_mish(before).nodes == before.nodes


def test_two_in_a_row_share_the_constant() -> None:
    before = graph(node("Mish", "x", "a"), node("Mish", "a", "y"))
    after = expand_mish(before)
    assert len(after.constants) == 1
    assert_same(before, after, rtol=1e-6)


def test_int8_bodies_of_onnxruntime_have_it() -> None:
    assert expand_mish in CPU_X86.passes and expand_mish not in OPENVINO.passes
