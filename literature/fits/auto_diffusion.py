"""Search for the times of a plan by evolution (AutoDiffusion: Li et al. 2023, arXiv 2309.10438), with the solver of the
nominal plan.

A candidate is an increasing selection from many times. Mutation draws some of its times again, and crossover takes each
time from one of two parents. The authors also search for layers to leave out, and use FID as the score. Here the score
is the distance from the teacher's samples.
"""

from collections.abc import Sequence

import numpy as np

from fewstep.literature.fits.evolution import Species, evolve
from fewstep.literature.fits.fit_setting import FitSetting
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import Time

CHOICES = 200  # number of times to choose from
CHANGED = 0.25  # share of the times that a mutation draws again

Places = tuple[int, ...]


def fit_plan(setting: FitSetting) -> Plan:
    """Return the plan of the nominal solver with the best times found between the ends of the nominal grid."""
    times = setting.times(CHOICES)
    inner = setting.evaluations - 1

    def plan(places: Places) -> Plan:
        return setting.compile(
            setting.plan_name.solver, select_times(times, places), f"{setting.nominal.name} over evolved times"
        )

    nominal = nearest_places(setting, CHOICES)
    best = evolve([nominal], species(inner, CHOICES), lambda places: setting.quality(plan(places)))
    return plan(best)


def select_times(times: Sequence[Time], places: Places) -> list[Time]:
    """Return the first time, the times at the indices `places`, and the last time."""
    return [times[0], *(times[place] for place in places), times[-1]]


def nearest_places(setting: FitSetting, choices: int) -> Places:
    """Return the indices, among `choices` times, of those nearest in log-SNR to the times of the plan from which the
    fit starts. No index occurs twice."""
    lams = np.array([time.lam for time in setting.times(choices)[1:-1]])
    places: list[int] = []
    for time in setting.times(setting.evaluations)[1:-1]:
        least = places[-1] + 1 if places else 1
        places.append(max(least, 1 + int(np.abs(lams - time.lam).argmin())))
    return tuple(places)


def species(inner: int, choices: int) -> Species[Places]:
    """Return what the evolutionary search needs to make candidates: sets of `inner` increasing indices between 0 and
    `choices`, both excluded."""

    def sort_places(places: set[int], rng: np.random.Generator) -> Places:
        while len(places) < inner:
            places.add(int(rng.integers(1, choices)))
        return tuple(sorted(places))

    def mutate(places: Places, rng: np.random.Generator) -> Places:
        return sort_places({place for place in places if rng.random() >= CHANGED}, rng)

    def cross_over(one: Places, other: Places, rng: np.random.Generator) -> Places:
        return sort_places({pair[int(rng.integers(2))] for pair in zip(one, other, strict=True)}, rng)

    return Species(lambda rng: sort_places(set(), rng), mutate, cross_over)
