"""Observing a graph of two layers with known activations."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fewstep.calibration.ranges.histogram import make_histogram
from fewstep.calibration.ranges.observe import Counts, channel_axes, expose_tensors, open_observed, tensors_to_observe
from fewstep.graph.graph import BATCH, Extent, Graph, Node
from fewstep.graph.session import open_session
from fewstep.measure.rollouts.trajectories import BodyCall
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Step
from fewstep.runtime.sampling.execute import StepState
from tests.onnx_text import graph_of_text
from tests.refusals import refuses

X = np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)
GRAPH = graph_of_text(
    """(float[batch, 2, 4, 4] x) => (float[batch, 2, 4, 4] v) {
        a = Conv(x, first) b = Relu(a) unseen = Mul(b, b) c = Conv(b, second) v = Add(c, unseen)
        constant = Mul(second, first)
    }""",
    first=np.eye(2)[:, :, None, None],
    second=np.full((2, 2, 1, 1), 2.0),
)


def evaluation(lam: float | None, **tensors: np.ndarray) -> BodyCall:
    step = Step(
        network="denoiser",
        time=7.0,
        to=None,
        lam=lam,
        alpha=None,
        sigma=None,
        group=0,
        branches=("cond",),
        heads=1,
        input=(1.0,),
        shaping=None,
        shaping_of=(),
        x0=(1.0, 0.0),
        update=((1.0, 0.0),),
        terms=(),
        draws=(),
    )
    return BodyCall(StepState(3, step, (), X, (), None, after=()), (0,), {"x": X}, tensors)


def test_inputs_and_outputs_of_weighted_layers_are_observed() -> None:
    assert tensors_to_observe(GRAPH) == ("x", "a", "b", "c")


def test_channels_lie_along_the_second_axis_of_convolutions_and_the_last_of_linear_layers() -> None:
    """A tensor that two operations read along different axes has none."""
    linear = {name: np.ones((4, 4), np.float32) for name in ("w", "v", "u")}
    following = graph_of_text("() => () { d = MatMul(b, w) e = MatMul(d, v) f = Gemm<transB=1>(e, u) }")
    both = GRAPH.with_nodes((*GRAPH.nodes, *following.nodes), linear)
    assert channel_axes(GRAPH) == {"x": 1, "a": 1, "b": 1, "c": 1}
    assert channel_axes(both) == {"x": 1, "a": 1, "c": 1, "d": -1, "e": -1, "f": -1}
    assert set(tensors_to_observe(both)) - set(channel_axes(both)) == {"b"}


def test_extremes_are_counted_by_channel_where_channels_are_distinguished() -> None:
    counts = Counts.empty(GRAPH, (0.0,), 6)
    assert counts.tensors == tensors_to_observe(GRAPH) and counts.axes == channel_axes(GRAPH)
    plain = Counts(counts.tensors, counts.edges)
    for one in (counts, plain):
        for scale in (1, -3):
            one.add(replace(evaluation(1.0, a=scale * X, b=X, c=X), seeds=(3, 4, 5)))
    together = np.stack([X, -3 * X])
    assert np.array_equal(counts.histograms["a", 1].lows, together.min(axis=(0, 1, 3, 4)))
    assert np.array_equal(counts.histograms["a", 1].highs, together.max(axis=(0, 1, 3, 4)))
    assert np.array_equal(counts.histograms["x", 1].highs, X.max(axis=(0, 2, 3)))
    assert counts.samples == 6
    assert plain.histograms["a", 1].lows.tolist() == [together.min()]
    assert counts.max_magnitudes()["a"] == plain.max_magnitudes()["a"] == np.abs(together).max()


def test_a_watched_graph_returns_what_the_tensors_hold_and_the_same_output() -> None:
    watched = expose_tensors(GRAPH, ("x", "a", "b", "c", "v"))
    assert [(value.name, value.shape) for value in watched.outputs[1:]] == [(n, (BATCH, 2, 4, 4)) for n in "abc"]
    seen = open_session(watched, optimize=True)({"x": X})
    assert np.array_equal(seen["a"], X) and np.array_equal(seen["b"], np.maximum(X, 0))
    assert np.allclose(seen["v"], open_session(GRAPH, optimize=True)({"x": X})["v"], rtol=1e-6)  # fused differently


def test_tensors_of_unknown_lengths_share_no_memory() -> None:
    """onnxruntime lets a tensor take the memory of another whose dimensions have the same names. The length of a Range
    is unknown."""
    graph = graph_of_text(
        """(float[batch, 1, length] x) => (float[batch, 1, length] v) {
            count = Shape<start=2, end=3>(x) n = Squeeze(count)
            even = Range(zero, n, two) short = Gather<axis=2>(x, even) a = Conv(short, w) b = Add(a, bias)
            all = Range(zero, n, one) half = Div(all, two) long = Gather<axis=2>(b, half) c = Conv(long, w)
            d = Add(c, bias) e = Add(d, x) v = Conv(e, w)
        }""",
        **{"zero": np.int64(0), "one": np.int64(1), "two": np.int64(2), "bias": np.float32(1)},
        w=np.full((1, 1, 1), 2, np.float32),
    )
    graph = replace(graph, extents={"length": Extent(64, 16, 512)})
    x = np.arange(95, dtype=np.float32).reshape(1, 1, 95)
    seen = open_observed(graph, tensors_to_observe(graph))({"x": x})
    even = 2 * x[:, :, ::2] + 1
    np.testing.assert_array_equal(seen["c"], 2 * even.repeat(2, axis=2)[:, :, :95])


def test_a_tensor_of_unknown_shape_is_named() -> None:
    strange = replace(GRAPH, nodes=(*GRAPH.nodes, Node("Strange", ("b",), ("d",), domain="elsewhere")))
    with pytest.raises(UserError, match="'d'"):
        expose_tensors(strange, ("d",))


def test_counts_fall_into_the_group_of_their_lambda() -> None:
    counts = Counts(("x", "a"), (0.0,))
    counts.add(evaluation(None, a=X))
    counts.add(evaluation(1.0, a=2 * X))
    counts.add(evaluation(2.0, a=4 * X))
    noisy, clean = counts.group_histograms("a")
    assert (noisy.stored.sum(), clean.stored.sum()) == (X.size, 2 * X.size)
    assert (noisy.high, clean.high) == (float(X.max()), 4 * float(X.max()))
    assert np.array_equal(counts.group_histograms("x")[0].counts, make_histogram(X).counts)


def test_what_a_tensor_reached_is_that_of_all_groups_whatever_its_sign() -> None:
    counts = Counts(("x", "a"), (0.0,))
    counts.add(evaluation(None, a=np.array([-7.5, 1.0], np.float32)))
    counts.add(evaluation(1.0, a=np.array([0.25, 6.0], np.float32)))
    assert counts.max_magnitudes() == {"x": float(np.abs(X).max()), "a": 7.5}


def test_a_group_without_data_is_an_error_with_the_name_of_the_tensor() -> None:
    counts = Counts(("a",), (0.0,))
    counts.add(evaluation(1.0, a=X))
    with refuses(("tensor 'a' has no data", "group 1 of 2")):
        counts.group_histograms("a")


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinite values")])
def test_values_that_are_not_finite_name_the_tensor_and_the_step(bad: float, word: str) -> None:
    values = X.copy()
    values[0, 0, 0, 0] = bad
    with refuses(("tensor 'a' has", word, "step 4 (time 7")):
        Counts(("a",), ()).add(evaluation(0.0, a=values))


def test_large_attention_is_counted_in_parts_and_bitwise_as_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of 4 heads among 6 tokens take 576 bytes. With a limit of 300 there are two parts."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in ("wq", "wk", "wv", "wo")}
    graph = graph_of_text(
        """(float[batch, 4, 6, 8] x) => (float[batch, 4, 6, 8] output) {
            q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) columns = Transpose<perm=[0, 1, 3, 2]>(k)
            scores = MatMul(q, columns) shares = Softmax(scores) attended = MatMul(shares, v)
            output = MatMul(attended, wo)
        }""",
        **weights,
    )
    fed = {"x": rng.standard_normal((3, 4, 6, 8)).astype(np.float32)}
    opened: list[Graph] = []

    def keeping(graph: Graph, **options: Any) -> Any:
        opened.append(graph)
        return open_session(graph, **options)

    monkeypatch.setattr("fewstep.calibration.ranges.observe.open_session", keeping)
    tensors = tensors_to_observe(graph)
    whole = open_observed(graph, tensors)(fed)
    monkeypatch.setattr("fewstep.graph.passes.split_attention.LARGE", 300)
    in_parts = open_observed(graph, tensors)(fed)
    assert [each.ops().count("Softmax") for each in opened] == [1, 2]
    assert set(tensors) == {"x", "q", "k", "v", "attended", "output"}
    for name in set(tensors) - fed.keys():
        np.testing.assert_array_equal(in_parts[name], whole[name])
