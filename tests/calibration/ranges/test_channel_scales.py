"""Scales of channels whose best answer is known."""

from dataclasses import replace
from functools import reduce
from itertools import product

import numpy as np
import pytest

from fewstep.calibration.ranges import channel_scales
from fewstep.calibration.ranges.channel_scales import LEAST_ROOM, ROOM, channel_gain, choose_channel_factors
from fewstep.calibration.ranges.histogram import Histogram, make_histogram, merge_histograms
from fewstep.calibration.ranges.methods import minmax_ranges, mse_ranges
from fewstep.calibration.ranges.readers import Reader
from fewstep.calibration.ranges.table import ChannelRanges, Range

REACH = np.array([8.0, 1.0, 4.0, 0.5])
MANY = 1 << 80  # trajectories: a further one goes beyond none, and channels get the least room


def reaching(lows: list[float], highs: list[float]) -> Histogram:
    """Return the table of a tensor [2, channels] that has exactly these extremes."""
    return make_histogram(np.array([lows, highs], np.float32), 1)


def found(*groups: Histogram, samples: int = MANY) -> ChannelRanges:
    own = choose_channel_factors(groups, samples)
    assert own is not None
    return own


def error(lows: np.ndarray, highs: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the mean squared error of rounding x / s, in units of the step of s = 1 squared over 12: [...] from [...,
    channels].
    """
    lows, highs = np.minimum(lows, 0), np.maximum(highs, 0)
    width = (highs / factors).max(axis=-1) - (lows / factors).min(axis=-1)
    return np.asarray(width**2 * np.square(factors).mean(axis=-1))


def reader(weight: np.ndarray) -> Reader:
    """Return a reader with weights [outputs, channels] and one tap."""
    return Reader(slice(0, weight.shape[1]), np.square(weight).sum(axis=0), np.abs(weight).astype(np.float32), 1)


def with_room(reach: np.ndarray, room: float = 1 / 8) -> np.ndarray:
    """Return the factors of channels with symmetric ranges: 1 for the loudest."""
    return np.asarray((reach / reach.max() + room) / (1 + room))


def near(low: float, high: float) -> Range:
    return Range(pytest.approx(low, rel=1e-12), pytest.approx(high, rel=1e-12))


@pytest.mark.parametrize("sign", [1, -1])
def test_channels_on_one_side_of_zero_fill_the_range_there(sign: int) -> None:
    ends = [np.zeros(4).tolist(), (sign * REACH).tolist()][::sign]
    own = found(reaching(*ends))
    assert own.factors == pytest.approx(with_room(REACH), rel=1e-12)
    assert own.ranges.pooled == (near(0.0, 8.0) if sign > 0 else near(-8.0, 0.0))


def test_factors_do_not_depend_on_the_unit() -> None:
    lows, highs = [-0.25, -0.125, -2.0], [8.0, 2.0, 0.5]
    one, many = (found(reaching((k * np.array(lows)).tolist(), (k * np.array(highs)).tolist())) for k in (1, 1024))
    assert one.factors == many.factors
    assert many.ranges.pooled == Range(1024 * one.ranges.pooled.low, 1024 * one.ranges.pooled.high)


@pytest.mark.parametrize(
    ("lows", "highs"),
    [
        ([-0.25, -0.25, -0.25], [8.0, 2.0, 0.0]),  # after a SiLU, one channel with nothing above zero
        ([-0.25, -0.25, -0.02], [8.0, 0.1, 0.0]),
        ([-1.0, -3.0, -0.5], [4.0, 0.5, 0.5]),
        ([-1.0, -1.0, -4.0], [0.0, 0.0, 0.0]),
        ([0.0, -2.0, -0.5], [2.0, 0.0, 0.25]),
    ],
)
def test_no_other_factors_are_better(lows: list[float], highs: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room, compared with all factors on a grid of a twentieth of an octave, for different extents below
    zero.
    """
    monkeypatch.setattr(channel_scales, "LEAST_ROOM", 0.0)
    own = found(reaching(lows, highs))
    grid = 2.0 ** np.arange(0, -6.01, -0.05)
    pairs = np.array([*product(grid, repeat=2)])
    others = np.concatenate([np.insert(pairs, place, 1.0, axis=1) for place in range(3)])  # the largest is 1
    best = error(np.array(lows), np.array(highs), others).min()
    assert error(np.array(lows), np.array(highs), np.array(own.factors)) < 1.03 * best


def test_a_factor_may_exceed_1_and_nothing_reaches_further_by_it() -> None:
    """One channel below zero and seven above: with t the ratio of its factor to theirs, (1 / t + 0.9)^2 (t^2 + 7) is
    least at t^3 = 7 / 0.9. With factors of 1 they would reach 0.9; to reach 1, all are divided by less.
    """
    own = found(reaching([-1.0] + [0.0] * 7, [0.0] + [0.9] * 7))
    assert own.factors[1:] == pytest.approx([0.9] * 7, rel=1e-7)
    assert 1.5 < own.factors[0] < 1.8
    assert own.ranges.pooled == near(-1 / own.factors[0], 1.0)


@pytest.mark.parametrize("samples", [1, 64, MANY])
def test_what_is_divided_reaches_as_far_as_before(samples: int) -> None:
    rng = np.random.default_rng(0)
    above_1 = 0
    for _ in range(50):
        ends = [(-(rng.uniform(0, 1, 6) ** 4)).tolist(), (rng.uniform(0, 1, 6) ** 4).tolist()]
        groups = [reaching(*ends), reaching(*(rng.permutation(end).tolist() for end in ends))]
        own = found(*groups, samples=samples)
        furthest = max(max(-group.low, group.high) for group in groups)
        assert max(own.ranges.per_group_symmetric) == own.ranges.pooled_symmetric == pytest.approx(furthest, rel=1e-12)
        above_1 += max(own.factors) > 1.01
    assert above_1 or samples == 1


@pytest.mark.parametrize("samples", [2, 100, MANY])
def test_a_channel_that_is_always_zero_counts_for_nothing(samples: int) -> None:
    """Its factor is the root mean square of the others', which are as they would be without it."""
    lows, highs = [-1.0, -0.25, -0.5], [1.0, 0.25, 4.0]
    with_it, without = (
        mse_ranges([reaching(*ends)], samples)
        for ends in (([*lows[:1], 0.0, *lows[1:]], [*highs[:1], 0.0, *highs[1:]]), (lows, highs))
    )
    own, live = with_it.by_channel, without.by_channel
    assert own is not None and live is not None
    assert own.factors[:1] + own.factors[2:] == live.factors and own.ranges == live.ranges
    assert own.factors[1] == pytest.approx(np.sqrt(np.square(live.factors).mean()), rel=1e-12)
    assert own.factors[1] < max(live.factors) - 0.01
    ranges = minmax_ranges([reaching(lows, highs)])
    assert channel_gain(replace(ranges, by_channel=own)) == pytest.approx(
        channel_gain(replace(ranges, by_channel=live)), abs=1e-12
    )


@pytest.mark.parametrize(
    ("samples", "room"), [(1, 12.0), (9, 4 / 3), (64, 0.1875), (95, 12 / 95), (96, 0.125), (1000, 0.125)]
)
def test_channels_of_few_samples_have_room(samples: int, room: float) -> None:
    """A share ROOM / n of the largest range is added to theirs, but at least LEAST_ROOM."""
    assert (ROOM, LEAST_ROOM) == (12.0, 0.125)
    own = found(reaching((-REACH).tolist(), REACH.tolist()), samples=samples)
    np.testing.assert_allclose(own.factors, with_room(REACH, room), rtol=1e-12)
    assert own.ranges.pooled == near(-8.0, 8.0)


def test_factors_are_those_of_all_groups_and_ranges_those_of_each() -> None:
    """The first group has a larger range in channel 0, the second in channel 1."""
    own = found(reaching([-4.0, -0.5], [4.0, 0.5]), reaching([-1.0, -2.0], [1.0, 2.0]))
    assert own.factors == pytest.approx([1.0, 5 / 9], rel=1e-12)
    assert own.ranges.per_group == (near(-4.0, 4.0), near(-3.6, 3.6)) and own.ranges.pooled == near(-4.0, 4.0)
    quiet = found(reaching([-4.0, -2.0], [4.0, 2.0]), reaching([-1.0, -0.25], [1.0, 0.25]))
    assert quiet.factors == own.factors
    assert quiet.ranges.per_group == (near(-4.0, 4.0), near(-1.0, 1.0))
    assert quiet.ranges.per_group_symmetric == pytest.approx((4.0, 1.0), rel=1e-12)
    assert quiet.ranges.pooled_symmetric == pytest.approx(4.0, rel=1e-12)


def test_a_group_that_was_always_zero_has_the_pooled_range() -> None:
    own = found(reaching([0.0, 0.0], [0.0, 0.0]), reaching([-1.0, -0.5], [2.0, 1.0]))
    assert own.factors == pytest.approx([1.0, 5 / 9], rel=1e-12)
    assert own.ranges.per_group == (near(-1.0, 2.0),) * 2 and own.ranges.pooled == near(-1.0, 2.0)
    assert own.ranges.per_group_symmetric == pytest.approx((2.0, 2.0), rel=1e-12)
    others = reaching([-0.25, -0.25, -0.1], [8.0, 0.1, 0.0]), reaching([-0.2, -0.25, -0.02], [6.0, 2.0, 0.1])
    for zero in (0, 1, 2):
        groups = [*others[:zero], reaching([0.0] * 3, [0.0] * 3), *others[zero:]]
        assert found(*groups).factors == found(*others).factors


@pytest.mark.parametrize(
    "histogram",
    [
        make_histogram(np.array([[1, 2], [3, 4]], np.float32)),  # channels that are not distinguished
        make_histogram(np.array([[1], [3]], np.float32), 1),  # one
        make_histogram(np.zeros((2, 3), np.float32), 1),
    ],
)
def test_without_channels_or_anything_in_them_there_are_no_factors(histogram: Histogram) -> None:
    assert choose_channel_factors([histogram, histogram], MANY) is None
    assert mse_ranges([histogram]).by_channel is None


def test_the_whole_of_what_a_tensor_reached_has_no_factors() -> None:
    groups = [reaching([-1.0, -0.5], [2.0, 1.0]), reaching([0.0, 0.0], [0.5, 1.0])]
    assert mse_ranges(groups, MANY).by_channel == choose_channel_factors(groups, MANY)
    assert minmax_ranges(groups).by_channel is None


def test_factors_are_tempered_where_weights_take_them_back_badly() -> None:
    """A weight that is largest where the activation is loudest loses most, so its factors are tempered. One that is
    largest where the activation is quiet loses nothing, and its factors stay.
    """
    histogram = reaching((-REACH).tolist(), REACH.tolist())
    plain = found(histogram)
    evens, opposed = (
        choose_channel_factors([histogram], MANY, [reader(np.broadcast_to(row, (32, 4)))])
        for row in (REACH**2, 1 / REACH)
    )
    assert opposed == plain
    assert evens is None or (np.array(evens.factors) >= np.array(plain.factors) - 1e-12).all()
    assert evens != plain


def test_readers_whose_weights_are_all_zero_do_not_ask_for_other_factors() -> None:
    histogram = reaching((-REACH).tolist(), REACH.tolist())
    with np.errstate(all="raise"):
        own = choose_channel_factors([histogram], MANY, (reader(np.zeros((2, 4))),))
    assert own is not None and own.factors == found(histogram).factors


@pytest.mark.parametrize("seed", range(4))
def test_the_error_that_factors_are_tempered_by_is_the_error_of_the_product(seed: int) -> None:
    """The error of x W with 8 bits on both sides, compared with rounded numbers: uniform x, normal W."""
    rng = np.random.default_rng(seed)
    reach = REACH.repeat(8)  # one weight in a row is exact, the greatest: of 32 that counts for little
    x = reach * rng.uniform(-1, 1, (4_000, 32))
    weight = rng.standard_normal((64, 32)) * np.array([4.0, 0.1, 1.0, 2.0]).repeat(8)
    factors = with_room(reach) ** rng.uniform(0, 1)
    steps = 2 * np.abs(x / factors).max() / 255
    scales = np.abs(weight * factors).max(axis=1, keepdims=True) / 127
    made = (np.rint(x / factors / steps) * steps) @ (np.rint(weight * factors / scales) * scales).T
    measured = np.square(made - x @ weight.T).mean() / np.square(x @ weight.T).mean()
    stated = reader(weight).error(factors, np.array([steps]), np.square(x).mean(axis=0)[None])
    assert 10 * np.log10(stated[0] / measured) == pytest.approx(0, abs=0.5)


def test_the_mean_square_of_channels_has_the_mean_that_was_counted() -> None:
    rng = np.random.default_rng(0)
    values = (REACH * rng.standard_normal((4000, 4))).astype(np.float32)
    power = channel_scales.channel_power([make_histogram(values, 1)])
    assert power.shape == (1, 4) and power.mean() == pytest.approx(np.square(values).mean(), rel=1e-3)
    assert power[0] == pytest.approx(np.square(values).mean(axis=0), rel=0.5)


@pytest.fixture
def groups() -> list[np.ndarray]:
    """Three groups [16, 6, 5, 7] whose channels have different ranges on both sides; one channel is always zero."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 16, 6, 5, 7))
    values = values * np.array([1, 30, 0.1, 4, 0, 2e-3]).reshape(6, 1, 1) * np.array([1, 0.3, 2]).reshape(3, 1, 1, 1, 1)
    values[:, :, 3] = np.maximum(values[:, :, 3], -0.01)
    values[:, :, 4] = 0.0  # of one sign
    return list(values.astype(np.float32))


def test_nothing_is_clipped_and_ranges_are_no_wider_than_needed(groups: list[np.ndarray]) -> None:
    own = found(*(make_histogram(values, 1) for values in groups), samples=64)
    factors = np.array(own.factors).reshape(6, 1, 1)
    ends = [((values / factors).min(), (values / factors).max()) for values in groups]
    assert [(each.low, each.high) for each in own.ranges.per_group] == ends
    assert (own.ranges.pooled.low, own.ranges.pooled.high) == (min(a for a, _ in ends), max(b for _, b in ends))
    assert own.ranges.per_group_symmetric == tuple(max(-a, b) for a, b in ends)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("size", [1, 4, 7])
def test_extremes_of_channels_do_not_depend_on_batches_or_their_order(
    groups: list[np.ndarray], axis: int, size: int
) -> None:
    """Bitwise, whatever the axis of channels: samples lie along another one."""
    values, channels = groups[0], axis % 4
    samples = 1 if channels == 0 else 0
    order = np.random.default_rng(size).permutation(values.shape[samples])
    shuffled = values.take(order, axis=samples)
    parts = [shuffled.take(range(i, min(i + size, len(order))), axis=samples) for i in range(0, len(order), size)]
    merged = reduce(merge_histograms, (make_histogram(part, axis) for part in parts))
    others = tuple(number for number in range(4) if number != channels)
    for histogram in (merged, make_histogram(values, axis)):
        assert histogram.lows.tobytes() == values.min(axis=others).tobytes()
        assert histogram.highs.tobytes() == values.max(axis=others).tobytes()
        assert histogram.lows.dtype == histogram.highs.dtype == np.float32
    assert np.array_equal(merged.counts, make_histogram(values).counts)
    assert (merged.low, merged.high) == (make_histogram(values).low, make_histogram(values).high)


def test_the_sign_of_a_zero_leaves_no_trace() -> None:
    """Whether 0.0 or -0.0 is the smallest depends on their order, and the table is hashed."""
    zeros = np.array([[0.0, 0.0, 1.0], [-0.0, -0.0, 2.0]], np.float32)
    seen = set()
    for rows in (zeros, zeros[::-1]):
        for histogram in (make_histogram(rows, 1), merge_histograms(*(make_histogram(row[None], 1) for row in rows))):
            seen.add(repr(found(histogram)))
    assert len(seen) == 1


def test_the_gain_is_what_rounding_measures() -> None:
    """Uniform channels in two groups: the squared error with one scale, divided by that with channel scales."""
    rng = np.random.default_rng(0)
    groups = [(width * REACH * rng.uniform(-1, 1, (40_000, 4))).astype(np.float32) for width in (1.0, 0.25)]
    ranges = mse_ranges([make_histogram(values, 1) for values in groups], MANY)
    one_scale = minmax_ranges([make_histogram(values, 1) for values in groups])
    own = ranges.by_channel
    assert own is not None
    gains = []
    for values, one, many in zip(groups, one_scale.per_group, own.ranges.per_group, strict=True):
        factors = np.array(own.factors)
        whole, by = (np.square(rounding(values / s, of) * s).mean() for s, of in ((1.0, one), (factors, many)))
        gains.append(10 * np.log10(whole / by))
    expected = -10 * np.log10(np.square(with_room(REACH)).mean())  # 4.5 dB
    assert channel_gain(replace(one_scale, by_channel=own)) == pytest.approx(expected, abs=0.01)
    assert np.mean(gains) == pytest.approx(expected, abs=0.1)


def rounding(values: np.ndarray, of: Range) -> np.ndarray:
    step = (of.high - of.low) / 255
    return np.rint(values / step) * step - values


def test_what_one_scale_clips_counts_for_it() -> None:
    """A range half as wide has half the step: 6 dB less to gain, and in one group of two 3 dB."""
    histogram = reaching((-REACH).tolist(), REACH.tolist())
    ranges = replace(minmax_ranges([histogram] * 2), by_channel=choose_channel_factors([histogram] * 2, MANY))
    narrower = replace(ranges, per_group=(Range(-4.0, 4.0), Range(-8.0, 8.0)))
    assert channel_gain(ranges) - channel_gain(narrower) == pytest.approx(10 * np.log10(2), abs=1e-9)
    assert channel_gain(replace(ranges, by_channel=None)) == 0.0
    even = reaching([-1.0] * 4, [1.0] * 4)
    assert channel_gain(
        replace(minmax_ranges([even]), by_channel=choose_channel_factors([even], MANY))
    ) == pytest.approx(0, abs=1e-12)
