"""Which activations get a scale for each channel: those that gain by it, whatever else is lowered."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.calibration.lowering.channel_equalization import LEAST_GAIN_FUSED
from fewstep.calibration.lowering.quantize import choose_encodings, lower, lower_graph, tensors_to_encode
from fewstep.calibration.lowering.scheme import Scheme, Target
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86, LEAST_GAIN
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.calibration.ranges.channel_scales import channel_gain
from fewstep.calibration.ranges.observe import tensors_to_observe
from fewstep.calibration.ranges.table import ChannelRanges, Range, Ranges
from fewstep.graph.graph import Graph
from fewstep.graph.selection import select_int8_ops
from fewstep.graph.session import run
from tests.calibration.every_target import UNPLACED
from tests.calibration.lowering.bodies.small_body import body, open_simulation, sqnr, table
from tests.calibration.lowering.bodies.uneven_channels_body import (
    REACH,
    given,
    layer,
    one_scale,
    products,
    result,
    seen,
)
from tests.onnx_text import graph_of_text

both = pytest.mark.parametrize("target", [CPU_X86, UNPLACED], ids=lambda target: target.name)


WRITTEN = {"h2", "shortcut", "h3"}  # by convolutions of `body`


def channels_of(prepared: Graph) -> dict[str, int]:
    """Return the channel ranges of all tensors that are observed in `body`."""
    return {name: 16 if name in ("a1", "h3") else 32 for name in tensors_to_observe(prepared)}


def winning(decibels: float, ranges: Ranges, channels: int) -> Ranges:
    """Return ranges with which per-channel scales gain this many dB: one eighth of the channels has the whole range,
    and the others a smaller one."""
    quiet = np.sqrt((8 * 10 ** (-decibels / 10) - 1) / 7)
    factors = (1.0,) * (channels // 8) + (float(quiet),) * (channels - channels // 8)
    made = replace(ranges, by_channel=ChannelRanges(factors, replace(ranges, by_channel=None)))
    assert channel_gain(made) == pytest.approx(decibels)
    return made


@pytest.mark.parametrize(
    ("decibels", "chosen"),
    [
        (0.1, WRITTEN),
        (LEAST_GAIN / 2 - 0.01, WRITTEN),
        (LEAST_GAIN / 2 + 0.01, {*WRITTEN, "a1"}),  # half of the largest
    ],
)
def test_a_smaller_activation_needs_to_win_less_and_a_written_one_anything(decibels: float, chosen: set[str]) -> None:
    prepared, ops = body(), select_int8_ops(body())
    plain, channels = table(prepared), channels_of(prepared)
    ranges = replace(plain, tensors={name: winning(decibels, plain[name], channels[name]) for name in channels})

    def multiplies(least: float) -> set[str]:
        scheme = replace(CPU_X86.scheme, least_gain=least)
        found = choose_encodings(prepared, ranges, ops, scheme)
        return {name for name, code in found.items() if code.multipliers is not None}

    assert multiplies(LEAST_GAIN) == chosen and CPU_X86.scheme.least_gain == LEAST_GAIN == 6.0
    assert Scheme.least_gain == 0.0  # of a target that says nothing
    every = set(tensors_to_encode(ops, CPU_X86.scheme))
    assert every >= WRITTEN
    assert multiplies(decibels - 0.01) == multiplies(0.0) == multiplies(-np.inf) == every


def test_a_written_activation_that_channels_make_coarser_has_one_scale() -> None:
    prepared = body()
    plain, channels = table(prepared), channels_of(prepared)
    ranges = replace(plain, tensors={name: wider(plain[name], channels[name], 1.01) for name in channels})
    codes = choose_encodings(prepared, ranges, select_int8_ops(prepared), CPU_X86.scheme)
    assert not [name for name, code in codes.items() if code.multipliers is not None]


def shrinking() -> Graph:
    """x -> a -> b -> c -> output: 32 channels, with 8 x 8 pixels up to a and 4 x 4 after it."""
    rng, text = np.random.default_rng(0), "(float[batch, 32, 8, 8] x) => (float[batch, 32, 4, 4] output)"
    inner = "a = Conv(x, wa) b = Conv<strides=[2, 2]>(a, wb) b_biased = Add(b, bias) c = Conv(b_biased, wc)"
    weights = {f"w{name}": rng.standard_normal((32, 32, 1, 1)) / 6 for name in ("a", "b", "c", "output")}
    return graph_of_text(f"{text} {{ {inner} output = Conv(c, woutput) }}", bias=np.ones((1, 32, 1, 1)), **weights)


@pytest.mark.parametrize(
    ("decibels", "chosen"), [(1.4, {"c"}), (1.6, {"b_biased", "c"}), (6.1, {"a", "b_biased", "c"})]
)
def test_with_the_largest_operation_in_float_the_others_are_written_as_before(
    decibels: float, chosen: set[str]
) -> None:
    """An operation a fourth as large as the largest needs a fourth of the gain, 1.5 dB, although the largest is no
    longer lowered.
    """
    prepared = shrinking()
    plain = seen(prepared, given(prepared))
    ranges = replace(plain, tensors={name: winning(decibels, tensor, 32) for name, tensor in plain.tensors.items()})
    _, whole, every = lower_graph(prepared, ranges, CPU_X86)
    _, ops, fewer = lower_graph(prepared, ranges, CPU_X86, in_float=("b",))
    assert [op.name for op in whole] == ["b", "c"] and [op.name for op in ops] == ["c"]
    assert {name for name, code in every.items() if code.multipliers is not None} - {"b"} == chosen
    assert fewer.keys() == {"b_biased", "c"}
    for name, code in fewer.items():
        assert np.array_equal(code.scales, every[name].scales) and code.zero_point == every[name].zero_point
        assert (code.multipliers is None) == (every[name].multipliers is None) == (name not in chosen)
        assert code.multipliers is None or np.array_equal(code.multipliers, every[name].multipliers)


def wider(ranges: Ranges, channels: int, by: float) -> Ranges:
    """As if a heavy tail were clipped by one scale, but not by channel: channel ranges are this much wider. No channel
    is quieter than the others.
    """
    ends = Range(by * ranges.pooled.low, by * ranges.pooled.high)
    amax = by * ranges.pooled_symmetric
    return replace(ranges, by_channel=ChannelRanges((1.0,) * channels, Ranges(ends, (ends,), amax, (amax,))))


@pytest.mark.parametrize("target", [UNPLACED, OPENVINO], ids=lambda target: target.name)
@pytest.mark.parametrize(("decibels", "is_chosen"), [(2.9, True), (3.1, False)])
def test_heavy_tails_that_one_scale_clips_keep_it_on_engines_that_fuse(
    target: Target, decibels: float, is_chosen: bool
) -> None:
    assert target.scheme.least_gain == LEAST_GAIN_FUSED == -3.0
    prepared, ops = body(), select_int8_ops(body())
    plain, channels = table(prepared), channels_of(prepared)
    made = {name: wider(plain.tensors[name], count, 10 ** (decibels / 20)) for name, count in channels.items()}
    assert channel_gain(made["a3"]) == pytest.approx(-decibels)
    codes = choose_encodings(prepared, replace(plain, tensors=made), ops, target.scheme)
    assert [code.multipliers is not None for code in codes.values()] == [is_chosen] * 3


def test_a_heavy_tail_costs_the_rest_nothing_where_one_scale_clips_it() -> None:
    """On TensorRT, channel scales four times as wide would cost every value two bits, 12 dB."""
    graph = layer("MatMul", np.ones(32))
    plain = seen(graph, given(graph))
    ranges = replace(plain, tensors={**plain.tensors, "a": wider(plain["a"], 32, 4.0)})
    exact = run(graph, given(graph), ["b"])["b"]
    kept = result(graph, ranges, UNPLACED)
    np.testing.assert_array_equal(kept, result(graph, one_scale(plain), UNPLACED))
    always = replace(UNPLACED, scheme=replace(UNPLACED.scheme, least_gain=-np.inf))
    graph_of_all, _, codes = lower_graph(graph, ranges, always)
    assert codes["a"].multipliers is not None and not products(lower(graph, ranges, UNPLACED).graph)
    forced = open_simulation(graph_of_all, ["b"])(given(graph))["b"].astype(np.float32)
    assert sqnr(exact, kept) - sqnr(exact, forced) > 6


@both
def test_operations_that_share_a_weight_have_one_scale_for_all_channels(target: Target) -> None:
    """Also next to an operation with another weight, and if the other reader of the weight stays in float."""
    plain = layer("MatMul")
    nodes = [node for node in plain.nodes if node.output != "c"]

    def of(weight: str) -> Graph:
        made = graph_of_text(f"() => () {{ d = MatMul(b, {weight}) e = MatMul(a, own) c = Add(d, e) }}").nodes
        constants = {"own": plain.constants["w"], "another": plain.constants["w"]}
        return plain.with_nodes((*nodes[:2], *made, nodes[2]), constants)

    shared, apart = of("w"), of("another")
    ranges = seen(shared, given(shared))
    assert {op.name for op in select_int8_ops(shared)} == {"b", "d", "e"}
    assert not products(lower(shared, ranges, target).graph)
    for ops in (select_int8_ops(shared), tuple(op for op in select_int8_ops(shared) if op.name in ("b", "e"))):
        codes = choose_encodings(shared, ranges, ops, target.scheme)
        assert all(code.multipliers is None for code in codes.values())
    own = choose_encodings(apart, ranges, select_int8_ops(apart), target.scheme)["a"].multipliers
    assert own is not None and own.tolist() == (1 / REACH).tolist()
