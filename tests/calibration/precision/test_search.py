"""The search on arrays whose answers are known."""

import numpy as np
import pytest

from fewstep.calibration.precision.search import Point, choose, frontier, pick, prefixes, ranked, staged, step_time

GAINS = np.array([[4.0, 0.0, 1.0], [3.0, 2.0, -1.0], [0.5, 0.1, 0.0]])
COSTS = np.array([0.2, 0.1, 0.01])
EVEN, QUARTERS = np.full(3, 1 / 3), np.full(4, 1 / 4)  # of the steps in each group


def test_what_wins_most_for_its_time_comes_first_and_what_hurts_never():
    assert ranked(GAINS, COSTS, EVEN) == [(2, 0), (1, 0), (0, 0), (1, 1), (2, 1), (0, 2)]
    assert ranked(GAINS, COSTS, np.array([0.7, 0.1, 0.2]))[:2] == [(1, 1), (2, 1)]  # few steps, little time


def test_sizes_to_try_cover_the_list():
    assert prefixes(0) == [] and prefixes(1) == [1]
    assert prefixes(12) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12]


def test_time_is_the_mean_over_the_steps():
    choice = choose([(0, 0), (1, 0), (2, 2)], 3)
    assert choice == (frozenset({0, 1}), frozenset(), frozenset({2}))
    assert step_time(choice, COSTS, EVEN) == pytest.approx(1 + (0.3 + 0 + 0.01) / 3)
    shares = np.array([0.5, 0.4, 0.1])
    assert step_time(choice, COSTS, shares) == pytest.approx(1 + 0.3 * 0.5 + 0.01 * 0.1)


def test_few_graphs_unite_the_sets_of_neighbours_where_it_is_cheapest():
    choice = (frozenset({1, 2}), frozenset({1}), frozenset(), frozenset())
    assert staged(choice, COSTS, QUARTERS, 3) == choice
    assert staged(choice, COSTS, QUARTERS, 2) == (frozenset({1, 2}), frozenset({1, 2}), frozenset(), frozenset())
    assert staged(choice, COSTS, QUARTERS, 1) == (frozenset({1, 2}),) * 4
    lone = (frozenset({0}), frozenset(), frozenset({1}))
    assert staged(lone, COSTS, EVEN, 2) == (frozenset({0}), frozenset({1}), frozenset({1}))
    mixed = (frozenset({0}), frozenset({0, 1}), frozenset({1}))
    late = np.array([0.1, 0.1, 0.8])  # most steps are of the last group: it is left alone
    assert staged(mixed, COSTS, late, 2) == (frozenset({0, 1}), frozenset({0, 1}), frozenset({1}))
    assert staged(mixed, COSTS, late[::-1], 2) == (frozenset({0}), frozenset({0, 1}), frozenset({0, 1}))
    for most in range(1, 5):
        for sets, given in zip(staged(choice, COSTS, QUARTERS, most), choice, strict=True):
            assert sets >= given


def test_the_frontier_has_what_nothing_beats_in_both():
    def point(quality: float, time: float) -> Point:
        return Point((), quality, time)

    points = [point(40, 1.0), point(42, 1.2), point(41, 1.3), point(45, 1.5), point(45, 1.4), point(39, 1.0)]
    best = frontier(points)
    assert [(p.quality, p.time) for p in best] == [(40, 1.0), (42, 1.2), (45, 1.4)]
    assert pick(best, 41.0, None) == best[1] and pick(best, None, 1.3) == best[1]
    assert pick(best, 50.0, None) is None and pick(best, None, 0.9) is None and pick(best, None, None) == best[2]
