"""Predictor-corrector sampling: published recurrences, the exact distribution, and the norm ratio that calibration
freezes.
"""

import math
from functools import partial

import numpy as np
import pytest

from fewstep.literature.score_sde import norm_ratios, score_sde_pc
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.publication import facts_of
from fewstep.plans.schedule import CLEAN, NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.convergence import moments, spread_error
from tests.plans.execute_plan import sample
from tests.plans.gaussian import COSINE, LINEAR, denoising, uniform_lambda

VE = ScheduleSpec("exploding")


@pytest.mark.parametrize(("spec", "corrections"), [(VE, 0), (VE, 1), (VE, 2), (LINEAR, 1)])
def test_it_is_the_annealed_recurrence(spec, corrections):
    """Algorithms 2 to 5 with sigma for |z| / |score|, the corrector first as in the authors' code.
    Variance-exploding steps keep x and add s^2 - t^2. Variance-preserving ones, over all timesteps from 30 down, use
    sqrt(1 - beta) and beta.
    """
    schedule, rng = NoiseSchedule(spec), np.random.default_rng(0)
    points = (50.0, 11.0, 2.0, 0.3, 0.01) if spec is VE else range(30, -1, -1)
    times = [*(schedule.time(float(t)) for t in points), CLEAN]
    added = np.linspace(1e-4, 0.02, 1000)[30::-1] if spec is LINEAR else -np.diff(np.square([*points, 0.0]))
    kept = np.sqrt(1 - added) if spec is LINEAR else np.ones(5)
    plan = trace_plan("test", partial(score_sde_pc, corrections=corrections), times, denoising(spec, "score"))
    scores, draws = rng.standard_normal((62, 3)), rng.standard_normal((70, 3))
    made = sample(plan, lambda i, step, u: [scores[i]], lambda k: draws[k], np.float64)
    x, draw, call = times[0].sigma * draws[0], 1, 0
    for s, t, a, b in zip(times, times[1:], kept, added, strict=False):
        for _ in range(corrections):
            step = 2 * (a * 0.16 * s.sigma) ** 2
            x = x + step * scores[call] + math.sqrt(2 * step) * draws[draw]
            call, draw = call + 1, draw + 1
        x, call = (2 - a) * x + b * scores[call], call + 1
        if t.sigma > 0:
            x, draw = x + math.sqrt(b) * draws[draw], draw + 1
    assert made == pytest.approx(x, rel=1e-9)
    assert (plan.rows, len(plan.steps)) == (1, len(points) * (corrections + 1))


def spread(spec, prediction, steps, corrections):
    """Return the error of the distribution after a number of steps."""
    times = uniform_lambda(spec, steps, first=995, last=10)
    plan = trace_plan("test", partial(score_sde_pc, corrections=corrections), times, denoising(spec, prediction))
    return spread_error(plan, spec, times[-1])


@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v")])
def test_the_predictor_converges_to_the_exact_law_with_order_one(spec, prediction):
    few, many = (spread(spec, prediction, steps, 0) for steps in (128, 256))
    assert math.log2(few / many) == pytest.approx(facts_of(score_sde_pc).order, abs=0.25)


def test_corrections_bring_the_law_nearer():
    none, one, two = (spread(COSINE, "v", 96, corrections) for corrections in (0, 1, 2))
    assert two < one < none


def test_the_norm_ratio_is_measured_and_frozen():
    """|z| is sqrt(8) for samples of 8 elements, and |score| is |eps| / sigma. Two samples of norms sqrt(8) and
    3 sqrt(8), times a scale at each time, have the mean 2 sqrt(8) scale.
    """
    times, scales = uniform_lambda(COSINE, 3, first=900, last=100), (0.7, 1.0, 1.6)
    noises = [scale * np.array([1.0, 3.0]).reshape(2, 1, 1) * np.ones((2, 2, 4)) for scale in scales]
    ratios = norm_ratios(noises, times[:-1])
    assert ratios == pytest.approx([time.sigma / (2 * scale) for time, scale in zip(times, scales)], rel=1e-12)
    frozen = trace_plan("test", partial(score_sde_pc, ratios=ratios), times, denoising(COSINE, "v"))
    z = frozen.steps[0].update[0][-1]  # sqrt(2 step) of the first correction
    kept = times[0].alpha / times[1].alpha
    assert z == pytest.approx(2 * kept * 0.16 * ratios[0], rel=1e-12)


def test_from_pure_noise_and_to_the_clean_end():
    plan = compile_plan("score_sde_pc:4", DenoiserFacts(ScheduleSpec("flow"), "sample"))
    mean, std = moments(plan, lambda index, step, u: [np.full_like(u, 0.7)])
    assert len(plan.steps) == 7  # nothing is corrected at pure noise
    assert not plan.steps[-1].draws
    assert math.isfinite(mean) and math.isfinite(std)
