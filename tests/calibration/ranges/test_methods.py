"""Ranges compared with a brute-force search on the samples themselves."""

from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from math import inf

import numpy as np
import pytest

from fewstep.calibration.ranges import methods
from fewstep.calibration.ranges.histogram import make_histogram, merge_histograms
from fewstep.calibration.ranges.methods import (
    CLIPPED,
    Density,
    extend_ranges,
    lambda_edges,
    minmax_ranges,
    mse_amax,
    mse_range,
    mse_ranges,
)
from fewstep.calibration.ranges.table import Range, Ranges
from fewstep.plans import solvers
from fewstep.plans.compile import compile_plan
from fewstep.plans.names.plan_name import SOLVERS, parse_plan_name
from fewstep.plans.plan import group_of
from fewstep.plans.publication import facts_of
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec

NORMAL = np.random.default_rng(0).standard_normal(100_000)
ACTIVATIONS = {
    "normal": NORMAL,
    "silu": 3 * NORMAL / (1 + np.exp(-3 * NORMAL)),
    "heavy tails": np.random.default_rng(1).standard_t(3, 100_000) - 1,
    "positive": np.abs(NORMAL) + 1,
    "negative": -np.exp(NORMAL),
    "relu": np.maximum(NORMAL, 0),
}


each_kind = pytest.mark.parametrize("ranges", [mse_ranges, minmax_ranges])


def uint8_error(x: np.ndarray, low: float, high: float) -> float:
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    return float(np.mean(((np.clip(np.round(x / scale) + zero, 0, 255) - zero) * scale - x) ** 2))


def int8_error(x: np.ndarray, amax: float) -> float:
    scale = amax / 127
    return float(np.mean((np.clip(np.round(x / scale), -128, 127) * scale - x) ** 2))


@pytest.fixture(params=ACTIVATIONS)
def x(request: pytest.FixtureRequest) -> np.ndarray:
    return ACTIVATIONS[request.param].astype(np.float32)


def test_whole_ranges_are_the_extremes_with_zero(x: np.ndarray) -> None:
    ranges = minmax_ranges([make_histogram(x)])
    assert ranges.pooled == Range(min(float(x.min()), 0.0), max(float(x.max()), 0.0))
    assert ranges.pooled_symmetric == float(np.abs(x).max())


def test_mse_amax_is_within_a_percent_of_brute_force(x: np.ndarray) -> None:
    amax = mse_amax(Density.from_histograms([make_histogram(x)]))
    best = min(int8_error(x, f * float(np.abs(x).max())) for f in np.linspace(0.05, 1, 200))
    assert int8_error(x, amax) <= 1.01 * best


def test_mse_range_is_within_two_percent_of_brute_force(x: np.ndarray) -> None:
    found = mse_range(Density.from_histograms([make_histogram(x)]))
    factors = np.linspace(0.05, 1, 14)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    lows = {f * low for f in factors}
    best = min(uint8_error(x, a, f * high) for a in lows for f in factors if a < f * high)
    assert found.low <= 0 <= found.high
    assert uint8_error(x, found.low, found.high) <= 1.02 * best


def test_ranges_clip_where_it_wins_although_the_clipped_count_four_times(x: np.ndarray) -> None:
    """Compared with a brute-force search with the same weights. Never narrower than mse by more than the search's own
    steps.
    """
    found, widest = (ranges([make_histogram(x)]).pooled for ranges in (mse_ranges, minmax_ranges))
    mse = mse_range(Density.from_histograms([make_histogram(x)]))
    assert CLIPPED == 4.0

    def error(low: float, high: float) -> float:
        scale = (high - low) / 255
        first = -np.round(-low / scale) * scale
        inside = np.clip(x, first, first + 255 * scale)
        return uint8_error(x, low, high) + (CLIPPED - 1) * float(np.mean((inside - x) ** 2))

    factors = np.linspace(0.05, 1, 14)
    ends = [(a * widest.low, b * widest.high) for a in factors for b in factors]
    assert error(found.low, found.high) <= 1.02 * min(error(a, b) for a, b in ends if a < b)
    assert found.high - found.low >= 0.97 * (mse.high - mse.low)


def test_the_pooled_range_weights_groups_equally() -> None:
    wide, narrow = (NORMAL * 10).astype(np.float32), NORMAL.astype(np.float32)
    once = mse_ranges([make_histogram(narrow), make_histogram(wide)])
    often = mse_ranges([make_histogram(np.tile(narrow, 9)), make_histogram(wide)])
    assert often.pooled == once.pooled
    assert once.per_group[0].high < once.pooled.high <= once.per_group[1].high * 1.1


@each_kind
def test_ranges_do_not_depend_on_order_or_batch(x: np.ndarray, ranges: Callable[..., Ranges]) -> None:
    shuffled = np.random.default_rng(2).permutation(x)
    whole = ranges([make_histogram(x)])
    assert ranges([reduce(merge_histograms, map(make_histogram, np.array_split(shuffled, 7)))]) == whole
    assert whole.pooled.low <= 0 <= whole.pooled.high and whole.pooled_symmetric > 0


@each_kind
def test_a_constant_ends_its_range_and_zeros_get_one(ranges: Callable[..., Ranges]) -> None:
    constant = ranges([make_histogram(np.full(9, -0.3, np.float32))])
    assert constant.pooled == Range(float(np.float32(-0.3)), 0.0)
    assert constant.pooled_symmetric == float(np.float32(0.3))
    zeros = ranges([make_histogram(np.zeros(9, np.float32))])
    assert (zeros.pooled, zeros.pooled_symmetric) == (Range(0.0, 1.0), 1.0)


@each_kind
def test_a_group_that_was_always_zero_has_the_range_of_all(ranges: Callable[..., Ranges]) -> None:
    """A range of zeros would coarsen the others' scales."""
    groups = [make_histogram((1e-5 * NORMAL).astype(np.float32)), make_histogram(np.zeros(9, np.float32))]
    found = ranges(groups)
    assert found.per_group[1] == found.pooled and found.per_group_symmetric[1] == found.pooled_symmetric < 1e-4
    assert found.per_group[0] == ranges(groups[:1]).pooled


def test_edges_are_midpoints_and_repeated_lambdas_share_a_group() -> None:
    assert lambda_edges([-4.0, -1.0, -1.0, 3.0]) == (-2.5, 1.0)
    assert lambda_edges([0.5]) == ()


def test_edges_next_to_infinite_lambdas_are_finite() -> None:
    assert lambda_edges([-inf, -1.0, 3.0, inf]) == (-3.0, 1.0, 5.0)
    assert lambda_edges([-inf, 2.0]) == (1.0,)
    assert lambda_edges([-inf, inf]) == (0.0,)
    assert lambda_edges([-inf, 1.0, np.nextafter(1.0, 2.0)]) == (0.0,)


@pytest.mark.parametrize("name", [*SOLVERS.names(), *solvers.ALIASES])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_each_noise_level_of_a_plan_has_a_group_and_each_group_a_step(name: str, schedule: str) -> None:
    """Ancestral solvers return to a time only within rounding."""
    usual = DenoiserFacts(ScheduleSpec(schedule, timesteps=100), "sample")
    denoising = facts_of(parse_plan_name(f"{name}:1").solver).made_for or usual
    for steps in (2, 7, 20):
        plan = compile_plan(f"{name}:{steps}", denoising)
        levels = [-inf if step.lam is None else step.lam for step in plan.steps]
        edges = lambda_edges(levels)
        groups = [group_of(step.lam, edges) for step in plan.steps]
        assert set(groups) == set(range(len(edges) + 1))
        for (level, group), (following, next_group) in pairwise(sorted(zip(levels, groups, strict=True))):
            assert (group == next_group) == (level == following or following - level < 1e-9)


@pytest.mark.parametrize("clipped", [1.0, CLIPPED])
def test_quantizers_that_are_left_out_are_none_of_the_best(
    x: np.ndarray, clipped: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bitwise the ranges of a search through all of them; most are left out."""
    computed: list[int] = []
    real = Density.quantization_error

    def count_call(density: Density, scale: np.ndarray, least: np.ndarray) -> np.ndarray:
        computed.append(len(scale))
        return real(density, scale, least)

    def everywhere(density: Density, scale: np.ndarray, least: np.ndarray, clipped: float) -> np.ndarray:
        computed.append(len(scale))
        outside = density.clipping_error(scale, least)
        return real(density, scale, least) + (clipped - 1) * outside if clipped != 1 else real(density, scale, least)

    monkeypatch.setattr(Density, "quantization_error", count_call)
    density = Density.from_histograms([make_histogram(x), make_histogram(x[:1000] * 3)])
    some = mse_range(density, clipped), mse_amax(density, clipped)
    few = sum(computed)
    computed.clear()
    monkeypatch.setattr(methods, "_weigh_errors", everywhere)
    assert (mse_range(density, clipped), mse_amax(density, clipped)) == some
    assert few < 0.8 * sum(computed)


def test_ranges_of_some_groups_are_spread_over_all() -> None:
    """Groups before the first take its ranges, and groups after the last take its; pooled ranges stay."""
    ranges = minmax_ranges([make_histogram(np.linspace(-reach, reach, 99, dtype=np.float32)) for reach in (2, 3)])
    whole = extend_ranges(ranges, slice(1, 3), 5)
    assert whole.per_group_symmetric == pytest.approx([2, 2, 3, 3, 3])
    assert [each.high for each in whole.per_group] == pytest.approx([2, 2, 3, 3, 3])
    assert whole.pooled_symmetric == ranges.pooled_symmetric


def test_values_are_at_the_centres_of_their_bins() -> None:
    density = Density.from_histograms([make_histogram(NORMAL)])
    assert density.moments[1, -1] == pytest.approx(NORMAL.mean(), abs=0.01 * density.width)
