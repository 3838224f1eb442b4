"""Scales of channels in the graph: the same values, with quiet channels rounded as finely as loud ones.

Factors are given, as powers of two unless a test says otherwise, so that multiplying and dividing by them rounds
nothing. The lowering of a graph with uneven channels must then equal that of the same graph with even ones, bitwise.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from fewstep.calibration.lowering import channel_scale_fusion
from fewstep.calibration.lowering.channel_equalization import equalize_channels, equalize_weight
from fewstep.calibration.lowering.encoding import Encoding, integer_name, name_after_equalization, scale_name
from fewstep.calibration.lowering.quantize import choose_encodings, lower, lower_graph, tensors_to_encode
from fewstep.calibration.lowering.scheme import Scheme, Target
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.ranges.observe import channel_axes
from fewstep.graph.graph import GROUP, Array, Graph
from fewstep.graph.selection import WeightedOp, select_int8_ops
from fewstep.graph.session import run
from tests.calibration.every_target import UNPLACED
from tests.calibration.lowering.bodies.small_body import EDGES, FACTORS, SELECTED, body, feeds, open_simulation, sqnr
from tests.calibration.lowering.bodies.uneven_channels_body import (
    REACH,
    given,
    layer,
    one_scale,
    products,
    result,
    seen,
    what_they_reach,
)
from tests.exact_int8 import open_exact
from tests.onnx_text import graph_of_text

KINDS = ("MatMul", "Gemm", "Gemm transB", "Conv", "grouped Conv")
both = pytest.mark.parametrize("target", [CPU_X86, UNPLACED], ids=lambda target: target.name)


@both
@pytest.mark.parametrize("kind", KINDS)
def test_uneven_channels_are_rounded_as_even_ones_are(kind: str, target: Target) -> None:
    uneven, even = layer(kind), layer(kind, np.ones(32))
    ranges = seen(uneven, given(uneven))
    own = ranges["a"].by_channel
    assert own is not None and own.factors == tuple(REACH)
    shared, expected = result(uneven, ranges, target), result(even, seen(even, given(even)), target)
    np.testing.assert_array_equal(shared, expected)
    exact = run(uneven, given(uneven), ["b"])["b"]
    one = sqnr(exact, result(uneven, one_scale(ranges), target))
    assert sqnr(exact, shared) > one + 15


@both
def test_each_group_has_its_own_ranges_of_even_channels(target: Target) -> None:
    graph = layer("Conv")
    ranges = seen(graph, given(graph), groups=3)
    own = ranges["a"].by_channel
    assert own is not None and [each.high for each in own.ranges.per_group] == [0.25, 0.5, 1.0]
    exact = run(graph, given(graph), ["b"])["b"]
    widest = result(graph, ranges, target, group=2)
    single = result(graph, seen(graph, given(graph)), target)
    assert sqnr(exact, widest) == pytest.approx(sqnr(exact, single), abs=0.5)
    assert sqnr(exact, result(graph, ranges, target, group=0)) < 15  # clipped at a fourth


def multiply_codes(prepared: Graph, ops: tuple[WeightedOp, ...], scheme: Scheme) -> dict[str, Encoding]:
    """Codes with multipliers of 1 to 8 for every tensor that a lowering encodes."""
    codes, rng = {}, np.random.default_rng(0)
    axes = channel_axes(prepared)
    values = run(prepared, feeds(prepared), list(tensors_to_encode(ops, scheme)))
    for name in tensors_to_encode(ops, scheme):
        multipliers = rng.uniform(1, 8, values[name].shape[axes[name]]).astype(np.float32).astype(np.float64)
        codes[name] = Encoding(np.ones(1), np.uint8(0), multipliers)
    return codes


@both
@pytest.mark.parametrize("spatial", [1, 2])
def test_in_float_the_graph_computes_the_same(target: Target, spatial: int) -> None:
    """Tensors keep their values, and the multiplied ones are those that the names state."""
    prepared, ops = body(spatial), select_int8_ops(body(spatial))
    codes = multiply_codes(prepared, ops, target.scheme)
    graph, inner, renamed = equalize_channels(prepared, ops, codes, target.scheme)
    weights = {op.weight: equalize_weight(op, prepared, codes) for op in ops}
    for op in ops:
        if target.scheme.form.encodes_output(op):
            along = codes[op.name].multipliers
            assert along is not None
            weights[op.weight] = (weights[op.weight] * along.reshape(-1, *[1] * spatial, 1)).astype(np.float32)
    names = [name for op in ops for name in (op.x, op.name)]
    expected = run(prepared, feeds(prepared), ["output", *names])
    found = run(graph.with_nodes(graph.nodes, weights), feeds(prepared), ["output", *names, *renamed])
    for name in ("output", *names):
        np.testing.assert_allclose(found[name], expected[name], atol=5e-6 * np.abs(expected[name]).max())
    axes = channel_axes(prepared)
    for name, code in codes.items():
        assert code.multipliers is not None
        shape = [-1 if axis == axes[name] % expected[name].ndim else 1 for axis in range(expected[name].ndim)]
        scaled = expected[name] * code.multipliers.reshape(shape)
        np.testing.assert_allclose(found[name_after_equalization(name)], scaled, atol=5e-6 * np.abs(scaled).max())
    assert [op.node.inputs[0] for op in inner] == [name_after_equalization(op.x) for op in ops]
    assert renamed == {name_after_equalization(name): code for name, code in codes.items()}


@both
def test_what_several_operations_read_is_multiplied_once(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_scale_fusion, "_fuse_quantize", lambda *_: ())
    prepared = body()
    always = replace(target, scheme=replace(target.scheme, least_gain=-np.inf))
    graph = lower(prepared, seen(prepared, feeds(prepared)), always).graph
    inputs = Counter(["a1", "tokens", "a3"])
    written = (
        Counter(name_after_equalization(name) for name in ("h2", "shortcut", "h3")) if target is CPU_X86 else Counter()
    )
    assert products(graph) == inputs + written
    assert products(lower(prepared, one_scale(seen(prepared, feeds(prepared))), always).graph) == Counter()


def chain(text: str, size: str = "6, 6", **constants: Array) -> Graph:
    """x -> output, with pictures of 32 channels."""
    plane = f"float[batch, 32, {size}]"
    return graph_of_text(f"({plane} x) => ({plane} output) {{ {text} }}", **constants)


def outputs(reach: Array = REACH, direct: bool = True) -> Graph:
    """x -> a -> h, whose channels are uneven, -> b: two convolutions, with or without a bias between them."""
    rng, source = np.random.default_rng(0), "h" if direct else "biased"
    return chain(
        f"""a = Conv(x, first) h = Conv<pads=[1, 1, 1, 1]>(a, w) {"" if direct else "biased = Add(h, bias)"}
        b = Conv({source}, v) output = Conv(b, last)""",
        first=np.eye(32)[..., None, None],
        w=rng.standard_normal((32, 32, 3, 3)) * reach.reshape(-1, 1, 1, 1) / 17,
        v=rng.standard_normal((32, 32, 1, 1)) / reach.reshape(1, -1, 1, 1) / 6,
        last=rng.standard_normal((32, 32, 1, 1)) / 6,
        bias=np.zeros((1, 32, 1, 1)),
    )


def by_channel_sqnr(exact: Array, found: Array) -> np.ndarray:
    return np.array([sqnr(exact[:, channel], found[:, channel]) for channel in range(exact.shape[1])])


def test_quiet_channels_of_what_a_convolution_writes_are_as_near_as_loud_ones() -> None:
    """With one scale, each halving costs a channel 6 dB. The integers of weights are the same, since their scales are
    not.
    """
    graph = outputs(direct=False)
    ranges = seen(graph, given(graph), factors=what_they_reach)
    exact = run(graph, given(graph), ["h"])["h"]
    many, one = (by_channel_sqnr(exact, result(graph, of, CPU_X86, "h")) for of in (ranges, one_scale(ranges)))
    assert many.min() > 35 and many.max() - many.min() < 6
    assert many[REACH == 1 / 32].mean() - one[REACH == 1 / 32].mean() > 20
    lowered, plain = (lower(graph, of, CPU_X86).graph for of in (ranges, one_scale(ranges)))
    code = choose_encodings(graph, ranges, select_int8_ops(graph), CPU_X86.scheme)
    assert code["a"].multipliers is None and code["h"].multipliers is not None
    np.testing.assert_array_equal(lowered.constants[integer_name("w")], plain.constants[integer_name("w")])
    scales = [each.constants[scale_name("w")] for each in (lowered, plain)]
    np.testing.assert_array_equal(scales[0], (scales[1] * code["h"].multipliers).astype(np.float32))


def test_a_convolution_after_another_reads_what_that_wrote() -> None:
    graph = outputs()
    ranges = seen(graph, given(graph), factors=what_they_reach)
    lowered = lower(graph, ranges, CPU_X86).graph
    assert products(lowered) == Counter([name_after_equalization("b")])  # nothing reads h itself
    assert [node.inputs[0] for node in lowered.nodes if node.op == "QuantizeLinear"] == ["a"]
    assert [node.inputs[0] for node in lowered.nodes if node.op == "QLinearConv"] == [
        integer_name("a"),
        integer_name(name_after_equalization("h")),
    ]
    exact = run(graph, given(graph), ["b"])["b"]
    many, one = (sqnr(exact, result(graph, of, CPU_X86)) for of in (ranges, one_scale(ranges)))
    assert many > one + 15
    assert products(lower(graph, ranges, UNPLACED).graph) == Counter(["a", "h"])


@both
def test_operations_in_float_read_what_they_read_before(target: Target) -> None:
    prepared = body()
    ranges = seen(prepared, feeds(prepared))
    always = replace(target, scheme=replace(target.scheme, least_gain=-np.inf))
    graph, ops, _ = lower_graph(prepared, ranges, always, in_float=("shortcut",))
    assert {op.name for op in ops} == set(SELECTED) - {"shortcut"} and integer_name(
        "shortcut.weight"
    ) not in graph.constants
    (node,) = (node for node in graph.nodes if node.output == "shortcut")
    assert node.op == "Conv" and node.inputs[0] == "a1"
    weight = graph.constants[node.inputs[1]]
    np.testing.assert_array_equal(weight, prepared.constants["shortcut.weight"].astype(weight.dtype))
    fed = feeds(prepared)
    lowered_outputs = (open_simulation if target is UNPLACED else open_exact)(graph, ["shortcut"])(fed)
    exact = run(prepared, fed, ["shortcut", "output"])
    np.testing.assert_allclose(
        lowered_outputs["shortcut"], exact["shortcut"], atol=2e-3 * np.abs(exact["shortcut"]).max()
    )
    assert sqnr(exact["output"], lowered_outputs["output"]) > 30


def test_multipliers_are_numbers_of_float16_and_weights_are_divided_by_them() -> None:
    prepared = body()
    ranges, ops = seen(prepared, feeds(prepared), factors=what_they_reach), select_int8_ops(prepared)
    codes = choose_encodings(prepared, ranges, ops, UNPLACED.scheme)
    graph = lower(prepared, ranges, UNPLACED).graph
    for op in ops:
        own, numbers = ranges[op.x].by_channel, codes[op.x].multipliers
        assert own is not None and numbers is not None
        np.testing.assert_array_equal(numbers, (1 / np.array(own.factors)).astype(np.float16))
        assert np.abs(numbers * own.factors - 1).max() > 1e-5  # they were rounded
        (node,) = (node for node in graph.nodes if node.name == f"channels({op.x})")
        written = graph.constants[node.inputs[1]]
        assert written.dtype == np.float16 and np.array_equal(written.reshape(-1), numbers)
        shape = (1, -1, 1, 1) if op.node.op == "Conv" else (-1, 1)
        taken_back = equalize_weight(op, prepared, codes) * numbers.reshape(shape)
        np.testing.assert_allclose(taken_back, prepared.constants[op.weight], rtol=1e-6)


@both
def test_the_whole_body_is_near_float_in_the_widest_group(target: Target) -> None:
    prepared = body()
    ranges = seen(prepared, feeds(prepared), groups=len(FACTORS))
    always = replace(target, scheme=replace(target.scheme, least_gain=-np.inf))
    lowered = lower(prepared, ranges, always)
    every = len(tensors_to_encode(select_int8_ops(prepared), target.scheme))
    assert every == (6 if target is CPU_X86 else 3)
    assert f"{every} of {every} activations have a scale for each channel" in lowered.notes
    assert not [note for note in lower(prepared, one_scale(ranges), always).notes if "for each channel" in note]
    assert set(lowered.coverage.int8_ops) == set(SELECTED) and lowered.groups == tuple(
        float(e) for e in range(len(EDGES))
    )
    exact = run(prepared, feeds(prepared))["output"]
    fed = feeds(prepared) | {GROUP: np.array([len(FACTORS) - 1])}
    output = (open_exact if target is CPU_X86 else open_simulation)(lowered.graph)(fed)["output"]
    assert sqnr(exact, output) > 30


@pytest.mark.parametrize("groups", [1, len(FACTORS)])
@pytest.mark.parametrize("spatial", [1, 2])
def test_a_division_that_costs_nothing_is_the_product_it_replaces(
    spatial: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = body(spatial)
    ranges = seen(prepared, feeds(prepared), groups=groups, factors=what_they_reach)
    monkeypatch.setattr(channel_scale_fusion, "_fuse_quantize", lambda *_: ())
    joined = lower(prepared, ranges, CPU_X86).graph
    apart = lower(prepared, ranges, replace(CPU_X86, finish=())).graph
    written = {name_after_equalization(name) for name in ("h2", "shortcut", "h3")}
    assert written <= products(apart).keys()
    before, after = (Counter(node.op for node in graph.nodes) for graph in (apart, joined))
    gone = before - after
    if spatial == 1:
        tables = 2 if groups > 1 else 0  # of 16 channels, and of 32
        assert gone == Counter(Mul=3) and after - before == Counter(Gather=tables, Reshape=tables, Split=tables)
    else:
        assert gone == Counter(Mul=3, Add=3) and after - before == Counter(BatchNormalization=3)
    for group in range(groups):
        fed = feeds(prepared) | ({GROUP: np.array([group])} if groups > 1 else {})
        joined_outputs, expected = (open_exact(graph, ["h3_biased"])(fed) for graph in (joined, apart))
        for name in ("h3_biased", "output"):
            if spatial == 1:
                np.testing.assert_allclose(joined_outputs[name], expected[name], rtol=2e-6, atol=1e-6)
            else:
                np.testing.assert_array_equal(joined_outputs[name], expected[name])


def test_a_product_without_a_bias_after_it_is_joined_too() -> None:
    """A sum with an activation follows the first convolution, and nothing follows the second."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((32, 32, 1, 1)).astype(np.float32) / 6 for name in ("first", "v", "w", "last")}
    text = "a = Conv(x, first) h = Conv(a, v) sum = Add(h, a) b = Conv(sum, w) c = Sigmoid(b) output = Conv(c, last)"
    graph = chain(text, **weights)
    ranges = seen(graph, given(graph), factors=what_they_reach)
    lowered = lower(graph, ranges, CPU_X86).graph
    normalized = [node for node in lowered.nodes if node.op == "BatchNormalization"]
    assert [node.output for node in normalized] == ["h", "b"]
    assert [not lowered.constants[node.inputs[2]].any() for node in normalized] == [True, True]
    exact = run(graph, given(graph))["output"]
    assert sqnr(exact, open_exact(lowered)(given(graph))["output"]) > 25


def test_a_constant_along_another_axis_is_no_bias() -> None:
    """It has as many numbers as there are channels, but along the last axis of a picture 6 x 32."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((32, 32, 1, 1)).astype(np.float32) / 6 for name in ("first", "v", "last")}
    text = "a = Conv(x, first) h = Conv(a, v) sum = Add(h, columns) s = Sigmoid(sum) output = Conv(s, last)"
    graph = chain(text, "6, 32", **weights, columns=3 * rng.standard_normal(32))
    ranges = seen(graph, given(graph, 4), factors=what_they_reach)
    lowered = lower(graph, ranges, CPU_X86).graph
    (normalized,) = (node for node in lowered.nodes if node.op == "BatchNormalization")
    assert normalized.output == "h" and not lowered.constants[normalized.inputs[2]].any()
    assert [node.inputs for node in lowered.nodes if node.output == "sum"] == [("h", "columns")]
    exact = run(graph, given(graph, 4))["output"]
    assert sqnr(exact, open_exact(lowered)(given(graph, 4))["output"]) > 50
