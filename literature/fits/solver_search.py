"""S3 (Liu, Ning, Lin, Yang, Wang 2023, arXiv 2312.07243): search the decisions of a unified solver for each step by
evolution.

A candidate has the times and, for each step, the order of the expansion, x0 or noise, B(h), and the corrector. The
authors train a predictor of FID to avoid sampling. Here the score is the distance to the teacher's samples. The start
of an expansion and the number of differences keep their defaults.
"""

from dataclasses import replace
from math import isinf

import numpy as np

from fewstep.literature.fits import auto_diffusion
from fewstep.literature.fits.auto_diffusion import CHOICES, Places
from fewstep.literature.fits.evolution import Species, evolve
from fewstep.literature.fits.fit_setting import FitSetting
from fewstep.literature.usf import Decision, Expansion, bh1, bh2, usf
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan

ORDERS = (1, 2, 3)
RELAXATIONS = (None, bh1, bh2)
CHANGED = 0.3  # share of the decisions that a mutation changes

Decisions = tuple[Decision, ...]
Candidate = tuple[Places, Decisions]


def fit_plan(setting: FitSetting) -> Plan:
    """Return the plan with the best decisions. The initial candidates are DPM-Solver++ of order 2, without and with a
    corrector of order 2, and UniPC of order 2."""
    steps = setting.evaluations
    times = setting.times(CHOICES)

    def plan(candidate: Candidate) -> Plan:
        places, decisions = candidate
        return setting.compile(usf(decisions), auto_diffusion.select_times(times, places), f"usf:{steps} by search")

    def quality(candidate: Candidate) -> float | None:
        try:
            return setting.quality(plan(candidate))
        except UserError:  # a step from pure noise, or to the clean end, can only have order 1
            return None

    infinite = int(isinf(times[0].lam))  # no derivative can be estimated from predictions at pure noise
    nominal = auto_diffusion.nearest_places(setting, CHOICES)
    known = (*(multistep(steps, infinite, corrected) for corrected in (False, True)), unipc(steps, infinite))
    best = evolve(
        [(nominal, decisions) for decisions in known],
        _species(auto_diffusion.species(steps - 1, CHOICES), steps, infinite),
        quality,
    )
    return plan(best)


def multistep(steps: int, infinite: int, corrected: bool) -> Decisions:
    """Return decisions with order 2 wherever two predictions at finite lambda are available. Earlier steps and the last
    one have order 1. `corrected` adds a corrector of the same order."""
    relaxed = Expansion(2, relaxation=bh2)
    middle = Decision(relaxed, corrector=replace(relaxed, start=2) if corrected else None)
    ends = min(1 + infinite, steps)
    return (*(Decision() for _ in range(ends)), *(middle for _ in range(steps - ends - 1)), Decision())[:steps]


def unipc(steps: int, infinite: int) -> Decisions:
    """Return the decisions of UniPC of order 2, whose corrector has order 3, or 2 until two predictions at finite
    lambda are available. The last step has order 1 and no corrector."""
    orders = [min(place + 1, 2) for place in range(steps - infinite - 1)]
    middle = [
        Decision(
            Expansion(order, relaxation=bh2 if order == 2 else None),
            corrector=Expansion(order + 1, start=2, relaxation=bh2 if order == 1 else None),
        )
        for order in orders
    ]
    return (*(Decision() for _ in range(infinite)), *middle, Decision())[:steps]


def _decision(place: int, steps: int, infinite: int, rng: np.random.Generator) -> Decision:
    """Return random choices for step `place` of a solver. The first step has only one prediction, and the last has no
    corrector."""
    if place <= infinite or place == steps - 1:
        return Decision(on_noise=place < steps - 1 and not infinite and bool(rng.integers(2)))
    order = ORDERS[int(rng.integers(min(place + 1 - infinite, len(ORDERS))))]
    relaxation = RELAXATIONS[int(rng.integers(len(RELAXATIONS)))]
    corrector = None
    if rng.integers(2):
        correcting = min(order + int(rng.integers(2)), 3)
        corrector = Expansion(correcting, start=2, relaxation=relaxation if correcting > 1 else None)
    predictor = Expansion(order, relaxation=relaxation if order > 1 else None)
    return Decision(predictor, bool(rng.integers(2)), corrector)


def _species(of_times: Species[Places], steps: int, infinite: int) -> Species[Candidate]:
    def random(rng: np.random.Generator) -> Candidate:
        return of_times.random(rng), tuple(_decision(place, steps, infinite, rng) for place in range(steps))

    def mutate(candidate: Candidate, rng: np.random.Generator) -> Candidate:
        places, decisions = candidate
        if rng.integers(2):
            places = of_times.changed(places, rng)
        drawn = (
            _decision(i, steps, infinite, rng) if rng.random() < CHANGED else own for i, own in enumerate(decisions)
        )
        return places, tuple(drawn)

    def cross_over(one: Candidate, other: Candidate, rng: np.random.Generator) -> Candidate:
        cut = int(rng.integers(1, steps)) if steps > 1 else 1
        return of_times.crossed(one[0], other[0], rng), (*one[1][:cut], *other[1][cut:])

    return Species(random, mutate, cross_over)
