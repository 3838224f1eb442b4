"""Measure the figures of a claim: time both ways in turns, then score their samples.

Both ways are timed in turns on eight of the seeds, and the medians of the rounds are compared. Times are CPU times, so
that their ratios hold on a machine that also does other things. One call of the network is timed before and after. If
it changed by more than a tenth, the timing is repeated once, and a line that is still unsteady says so. If times do not
decide the claim, one round suffices.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

import numpy as np

from fewstep.measure.rollouts.metrics import Floats
from lab.claims.claim import Always, Claim, PlainWay, Way
from lab.claims.claim_lines import Line, Longer, gain
from lab.claims.settings import Setting
from lab.claims.shared_samples import sample_once, take_seeds

MOST = 8  # largest factor of evaluations at equal time
TIMED = 8  # number of timed seeds
ROUNDS, ATTEMPTS, STEADY = 3, 2, 1.1


@dataclass(frozen=True)
class Timing:
    """Median milliseconds for the timed seeds: of the system, of the plain way, and of the plain way with `longer`
    evaluations."""

    ours_ms: float
    plain_ms: float
    longer: int
    longer_ms: float
    is_steady: bool


def judge_claim(model: str, setting: Setting, claim: Claim, timing: Timing, made: Sequence[Sequence[Floats]]) -> Line:
    """Return the figures of all seeds, with the times of some. A figure of time uses the rounds that were timed."""
    if claim.seeds is not None:
        setting = take_seeds(setting, claim.seeds)
    if claim.of_time:
        few = replace(setting, seeds=setting.seeds[:TIMED])
        figures = tuple(claim.score(few, np.concatenate(each)) for each in (*made[:2], made[-1]))
    else:
        ways = (claim.ours, *(plainly(claim.plain, count) for count in (claim.evaluations, timing.longer)))
        figures = tuple(claim.score(setting, sample_once(setting, way)) for way in ways)
    ours, plain, at_equal = figures
    of_plain = claim.plain_evaluations
    return Line(
        *(model, claim.system, claim.claim, claim.control, claim.figure, claim.evaluations),
        ours=float(ours.mean()),
        plain=float(plain.mean()),
        gain=gain(ours, plain),
        unit=claim.unit,
        asked=claim.asked,
        plain_evaluations=of_plain(setting) if callable(of_plain) else of_plain,
        ours_ms=timing.ours_ms,
        plain_ms=timing.plain_ms,
        at_equal_time=Longer(timing.longer, timing.longer_ms, float(at_equal.mean()), gain(ours, at_equal))
        if claim.has_longer
        else None,
        is_steady=timing.is_steady,
    )


@cache
def plainly(way: PlainWay, count: int) -> Way:
    """Return the plain way with this number of evaluations."""
    return way.way if isinstance(way, Always) else lambda s: way(s, count)


def time_ways(setting: Setting, claim: Claim, rounds: int = ROUNDS) -> tuple[Timing, list[list[Floats]]]:
    """Time the ways on a few seeds, in turns, and return the times and the samples. The number of evaluations of the
    plain way at equal time follows from the ratio of times at equal evaluations, and is corrected once by its own
    time."""
    s = replace(setting, seeds=setting.seeds[:TIMED])
    plain = plainly(claim.plain, claim.evaluations)
    rounds, attempts = (rounds, ATTEMPTS) if claim.has_longer or claim.of_time else (1, 1)
    for attempt in range(attempts):
        before = probe(s)
        in_turns(s, 1, claim.ours, plain)  # warms up
        longer = claim.evaluations
        if claim.has_longer:
            (ours, plain_ms), _ = in_turns(s, 1, claim.ours, plain)
            longer = _evaluations(claim, longer * ours / plain_ms)
        for _ in range(2):
            ways = [claim.ours, plain, *([plainly(claim.plain, longer)] if claim.has_longer else [])]
            times, made = in_turns(s, rounds, *ways)
            timing = Timing(times[0], times[1], longer, times[-1], 1 / STEADY < probe(s) / before < STEADY)
            wanted = _evaluations(claim, longer * timing.ours_ms / timing.longer_ms)
            if not claim.has_longer or abs(wanted - longer) <= max(0.1 * longer, 1):
                break
            longer = wanted
        if timing.is_steady or attempt == attempts - 1:
            break
    return timing, made


def _evaluations(claim: Claim, wanted: float) -> int:
    return min(max(round(wanted), 1), MOST * claim.evaluations)


def in_turns(s: Setting, rounds: int, *ways: Way) -> tuple[list[float], list[list[Floats]]]:
    """Return for each way the median CPU time in milliseconds, and its result in each round."""
    times: list[list[float]] = [[] for _ in ways]
    made: list[list[Floats]] = [[] for _ in ways]
    for _ in range(rounds):
        for number, way in enumerate(ways):
            begun = time.process_time()
            made[number].append(way(s))
            times[number].append(1000 * (time.process_time() - begun))
    return [median(each) for each in times], made


def probe(s: Setting) -> float:
    """Return the milliseconds of one call of the network, as the median of nine."""
    plan, who = s.sampler.compile("ddim:1", 1.0), replace(s, seeds=s.seeds[:1]).who
    network, u = s.sampler.step_network(plan, 1, who), s.sampler.draws([0])(0)
    network(0, plan.steps[0], u)
    (milliseconds,), _ = in_turns(s, 9, lambda _: np.asarray(network(0, plan.steps[0], u)[0]))
    return milliseconds
