"""Which products of attention run in int8, by samples and time."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fewstep.calibration.attention_precision import measure_largest, quantize_attention
from fewstep.calibration.calibrated_body import CalibratedBody
from fewstep.calibration.lowering import attention_pairs
from fewstep.calibration.lowering.attention_pairs import find_large_attention
from fewstep.calibration.policy import POLICY
from fewstep.graph.graph import Graph
from fewstep.graph.session import run
from fewstep.measure.rollouts.recorded_run import RecordedRun
from fewstep.runtime.bundle.manifest import Trial
from tests.onnx_text import graph_of_text

TOKENS = 16


def network(between: str = "p = Softmax(s)") -> Graph:
    """Attention of two heads on x, and a product with a weight that has as many multiplications as one of the
    attention's.
    """
    shape, rng = f"float[batch, 2, {TOKENS}, 4]", np.random.default_rng(0)
    return graph_of_text(
        f"({shape} x) => ({shape} y) {{ k = Transpose<perm=[0, 1, 3, 2]>(x) s = MatMul(x, k) {between}"
        " m = MatMul(p, x) y = MatMul(m, weight) }",
        weight=rng.standard_normal((4, 4)).astype(np.float32),
        half=0.5,
    )


@dataclass
class Recorded:
    """A recorded run of two steps."""

    float_states: list[np.ndarray[Any, Any]] = field(
        default_factory=lambda: [
            scale * np.random.default_rng(1).standard_normal((1, 2, TOKENS, 4)).astype(np.float32) for scale in (1, 2)
        ]
    )

    def body_feeds(self, state: np.ndarray[Any, Any]) -> list[dict[str, np.ndarray[Any, Any]]]:
        return [{"x": state}]


@pytest.fixture(autouse=True)
def _small_attention_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_pairs, "LEAST_TOKENS", TOKENS)


@pytest.mark.parametrize(
    "between", ["p = Softmax(s)", "h = Mul(s, half) p = Softmax<axis=3>(h)"], ids=["plain", "scale"]
)
def test_the_largest_magnitudes_are_those_of_all_steps(between: str) -> None:
    graph, recorded = network(between), Recorded()
    found = measure_largest(graph, find_large_attention(graph), cast(RecordedRun, recorded))
    values = [run(graph, {"x": state}, ["k", "p"]) | {"x": state} for state in recorded.float_states]
    expected = {name: max(float(np.abs(value[name]).max()) for value in values) for name in ("x", "k", "p")}
    assert found == pytest.approx(expected, rel=1e-5)


def test_heads_that_share_their_keys_have_the_largest_probability_of_all() -> None:
    queries, keys = f"float[batch, 2, {TOKENS}, 4]", f"float[batch, 1, {TOKENS}, 4]"
    graph = graph_of_text(
        f"({queries} x, {keys} c) => ({queries} y) {{ k = Transpose<perm=[0, 1, 3, 2]>(c) s = MatMul(x, k)"
        " p = Softmax(s) y = MatMul(p, c) }"
    )
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.standard_normal((1, 2, TOKENS, 4)).astype(np.float32) * np.array([1, 3], np.float32)[:, None, None],
        "c": rng.standard_normal((1, 1, TOKENS, 4)).astype(np.float32),
    }
    recorded = SimpleNamespace(float_states=[None], body_feeds=lambda state: [feeds])
    found = measure_largest(graph, find_large_attention(graph), cast(RecordedRun, recorded))
    assert found["p"] == pytest.approx(float(run(graph, feeds, ["p"])["p"].max()), rel=1e-5)


@pytest.mark.parametrize("samples", [1, 2])
def test_constant_queries_are_measured_too(samples: int) -> None:
    tensor, rng = f"float[batch, 2, {TOKENS}, 4]", np.random.default_rng(0)
    learned = rng.standard_normal((2, TOKENS, 4)).astype(np.float32)
    graph = graph_of_text(
        f"({tensor} x) => ({tensor} y) {{ k = Transpose<perm=[0, 1, 3, 2]>(x) s = MatMul(learned, k)"
        " p = Softmax(s) y = MatMul(p, x) }",
        learned=learned,
    )
    feeds = {"x": rng.standard_normal((samples, 2, TOKENS, 4)).astype(np.float32)}
    recorded = SimpleNamespace(float_states=[None], body_feeds=lambda state: [feeds])
    found = measure_largest(graph, find_large_attention(graph), cast(RecordedRun, recorded))
    assert found["learned"] == pytest.approx(np.abs(learned).max())
    assert found["p"] == pytest.approx(float(run(graph, feeds, ["p"])["p"].max()), rel=1e-5)


def chosen(*decibels: float, **trial: Any) -> tuple[str, ...]:
    """Return the products in int8 if bodies lose `decibels` with the scores, then with all or only the mixes."""
    losses = iter(decibels)
    made = Trial("channels", 60.0, 60.0, 1, is_chosen=True, snr=60.0)
    graph = network()

    def rewrite(change: Callable[[Graph], Graph], note: str) -> SimpleNamespace:
        return SimpleNamespace(**{**vars(recipe), "lowered": change(graph)})

    recipe = SimpleNamespace(
        prepared=graph, target=SimpleNamespace(name="openvino"), lowered=graph, rewrite_graphs=rewrite
    )
    body = CalibratedBody(cast(Any, recipe), made)

    def judge(changed: Any) -> CalibratedBody:
        values = {"psnr": 60.0 - next(losses), **trial}
        return replace(
            body, recipe=cast(Any, changed), trial=Trial("channels", values.pop("psnr"), 60.0, 1, True, **values)
        )

    found: Any = quantize_attention(body, cast(RecordedRun, Recorded()), judge, POLICY).recipe
    products = {node.output for node in graph.nodes if node not in found.lowered.nodes}
    return tuple(name for name in ("s", "m") if name in products)


def worth() -> float:
    """Return the value of one product's time in dB: it has 16 of 36 parts of all multiplications."""
    return POLICY.price * POLICY.float_slowdown * 16 / 36


def test_both_products_run_in_int8_where_they_cost_little() -> None:
    assert chosen(0.1, 0.2, snr=60.0) == ("s", "m")


def test_a_product_stays_in_float_that_costs_more_than_its_time_is_worth() -> None:
    assert chosen(0.1, 0.2 + worth(), snr=60.0) == ("s",)


def test_the_second_product_is_judged_alone_if_the_first_stays_in_float() -> None:
    assert chosen(1.0 + worth(), 0.1, snr=60.0) == ("m",)


def test_a_body_below_the_minimum_quality_is_not_chosen() -> None:
    assert chosen(0.1, 0.1, snr=1.0) == ()
