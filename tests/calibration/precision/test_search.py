"""The search on arrays whose answers are known."""

import numpy as np
import pytest

from fewstep.calibration.precision.search import (
    LEAST_COST,
    JudgedQuality,
    Point,
    choose,
    frontier,
    in_runs,
    pick,
    prefixes,
    ranked,
    scaled,
    step_time,
)

GAINS = np.array([[4.0, 0.0, 1.0], [3.0, 2.0, -1.0], [0.5, 0.1, 0.0]])
COSTS = np.array([0.2, 0.1, 0.01])
EVEN, QUARTERS = np.full(3, 1 / 3), np.full(4, 1 / 4)  # of the steps in each group


def test_what_wins_most_for_its_time_comes_first_and_what_hurts_never():
    assert ranked(GAINS, COSTS, EVEN) == [(2, 0), (1, 0), (0, 0), (1, 1), (2, 1), (0, 2)]
    assert ranked(GAINS, COSTS, np.array([0.7, 0.1, 0.2]))[:2] == [(1, 1), (2, 1)]  # few steps, little time


@pytest.mark.parametrize("float_time", [1.02, 1.3])
def test_time_counts_however_little_float32_costs_in_all(float_time: float) -> None:
    """Thirty operations that cost 0.02 of a step together: each less than what is noise where one alone is timed."""
    alone = np.linspace(0.3, 0.01, 30)
    pairs = ranked(np.linspace(1.3, 1.0, 30)[:, None], scaled(alone, float_time), np.ones(1))
    assert pairs == [(op, 0) for op in reversed(range(30))]


@pytest.mark.parametrize("float_time", [1.0, 0.8])
def test_where_float_costs_no_time_what_wins_most_comes_first(float_time: float) -> None:
    pairs = ranked(GAINS, scaled(COSTS, float_time), EVEN)
    assert pairs == [(0, 0), (1, 0), (1, 1), (0, 2), (2, 0), (2, 1)]


def test_sizes_to_try_cover_the_list():
    assert prefixes(0) == [] and prefixes(1) == [1]
    assert prefixes(12) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12]


def test_time_is_the_mean_over_the_steps():
    choice = choose([(0, 0), (1, 0), (2, 2)], 3)
    assert choice == (frozenset({0, 1}), frozenset(), frozenset({2}))
    times = [1 + COSTS[sorted(floats)].sum() for floats in choice]
    assert step_time(times, EVEN) == pytest.approx(1 + (0.3 + 0 + 0.01) / 3)
    shares = np.array([0.5, 0.4, 0.1])
    assert step_time(times, shares) == pytest.approx(1 + 0.3 * 0.5 + 0.01 * 0.1)
    for groups in range(1, 30):  # no rounding: a bound may be as fast as float32, to the last bit
        assert step_time([1.23] * groups, np.full(groups, 1 / groups)) == 1.23


@pytest.mark.parametrize("float_time", [1.155, 1.0, 0.8])
def test_single_costs_add_up_to_what_float32_costs(float_time: float) -> None:
    """Alone each pays for borders that it has no more among others; 0.31 of single costs are 0.155 together."""
    costs = scaled(COSTS, float_time)
    assert costs.sum() == pytest.approx(float_time - 1)
    assert costs == pytest.approx(COSTS * (float_time - 1) / 0.31)


def test_what_is_faster_in_float_alone_costs_little() -> None:
    costs = scaled(np.array([0.2, -0.1, 0.0]), 1.1)
    assert costs.sum() == pytest.approx(0.1) and np.all(costs > 0)
    assert costs[1] == costs[2] == pytest.approx(costs[0] * LEAST_COST / 0.2)


def test_few_graphs_unite_the_sets_of_neighbours_where_it_is_cheapest():
    choice = (frozenset({1, 2}), frozenset({1}), frozenset(), frozenset())
    assert in_runs(choice, COSTS, QUARTERS, 3) == choice
    assert in_runs(choice, COSTS, QUARTERS, 2) == (frozenset({1, 2}), frozenset({1, 2}), frozenset(), frozenset())
    assert in_runs(choice, COSTS, QUARTERS, 1) == (frozenset({1, 2}),) * 4
    lone = (frozenset({0}), frozenset(), frozenset({1}))
    assert in_runs(lone, COSTS, EVEN, 2) == (frozenset({0}), frozenset({1}), frozenset({1}))
    mixed = (frozenset({0}), frozenset({0, 1}), frozenset({1}))
    late = np.array([0.1, 0.1, 0.8])  # most steps are of the last group: it is left alone
    assert in_runs(mixed, COSTS, late, 2) == (frozenset({0, 1}), frozenset({0, 1}), frozenset({1}))
    assert in_runs(mixed, COSTS, late[::-1], 2) == (frozenset({0}), frozenset({0, 1}), frozenset({0, 1}))
    for most in range(1, 5):
        for sets, given in zip(in_runs(choice, COSTS, QUARTERS, most), choice, strict=True):
            assert sets >= given


def test_the_frontier_has_what_nothing_beats_in_both():
    def point(quality: float, time: float) -> Point:
        return Point((), quality, time)

    points = [point(40, 1.0), point(42, 1.2), point(41, 1.3), point(45, 1.5), point(45, 1.4), point(39, 1.0)]
    best = frontier(points)
    assert [(p.quality, p.time) for p in best] == [(40, 1.0), (42, 1.2), (45, 1.4)]
    assert pick(best, 41.0, None) == best[1] and pick(best, None, 1.3) == best[1]
    assert pick(points, None, 1.5) == best[2] and pick([*points, point(45, 1.3)], 45.0, None) == point(45, 1.3)
    assert pick(best, 50.0, None) is None and pick(best, None, 0.9) is None and pick(best, None, None) == best[2]


def test_a_quality_holds_as_far_as_it_is_known() -> None:
    """40.5 dB that were judged to be 39 are no 40, and rule out 40.2 that were not; the next better is taken."""
    lucky = Point((), 40.5, 1.0, judged=JudgedQuality(39.0, 0.2))
    worse, better = Point((), 40.2, 1.1), Point((), 41.0, 1.2)
    assert pick([lucky, worse, better], 40.0, None) == better
    assert pick([lucky, worse], 40.0, None) is None and pick([worse], 40.0, None) == worse
    unlucky = Point((), 39.0, 1.05, judged=JudgedQuality(40.1, 0.2))
    assert pick([lucky, worse, better, unlucky], 40.0, None) == unlucky


def test_within_a_time_no_point_is_chosen_by_what_judges_it() -> None:
    lucky, other = (
        Point((), 41.0, 1.0, judged=JudgedQuality(39.0, 0.2)),
        Point((), 40.0, 1.0, judged=JudgedQuality(39.5, 0.2)),
    )
    assert pick([lucky, other], None, 1.0) == lucky and frontier([lucky, other]) == [lucky]
