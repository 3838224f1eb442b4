"""Evolution on candidates whose best one is known."""

import numpy as np
import pytest

from fewstep.literature.fits.auto_diffusion import species
from fewstep.literature.fits.evolution import evolve
from fewstep.plans.errors import UserError


def test_the_best_candidate_is_found_within_the_budget() -> None:
    asked = []

    def quality(places: tuple[int, ...]) -> float:
        asked.append(places)
        return -float(np.abs(np.array(places) - (10, 20, 40)).sum())

    best = evolve([(1, 2, 3)], species(3, 50), quality, population=20, generations=30)
    assert quality(best) >= -3
    assert len(set(asked)) == len(asked) - 1 <= 20 * 31  # the last one was asked here


def test_candidates_increase_and_stay_between_the_ends() -> None:
    rng, own = np.random.default_rng(0), species(4, 12)
    for _ in range(200):
        one, other = own.random(rng), own.random(rng)
        for places in (one, own.changed(one, rng), own.crossed(one, other, rng)):
            assert len(places) == 4 and places[0] >= 1 and places[-1] <= 11
            assert list(places) == sorted(set(places))


def test_candidates_without_samples_are_no_parents() -> None:
    best = evolve([(1,)], species(1, 6), lambda places: None if places[0] < 5 else 1.0, population=6, generations=2)
    assert best == (5,)
    with pytest.raises(UserError, match="no candidate has samples that are finite"):
        evolve([(1,)], species(1, 6), lambda places: None, population=4, generations=1)
