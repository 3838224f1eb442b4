"""Resfusion: the steps of DDPM, from a degraded image."""

import math

import numpy as np
import pytest

from fewstep.plans import solvers
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.schedule import CLEAN, NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.execution import sample

Y = -0.6


def test_resfusion_is_ddpm_from_the_degraded_image():
    """Resfusion (Shi et al. 2024, arXiv 2311.14900): equation 33 is DDPM's step, on a denoiser of its "resnoise", and
    sampling starts where alpha is 1/2, from alpha y + sigma z."""
    schedule, rng = NoiseSchedule(ScheduleSpec("linear")), np.random.default_rng(0)
    times = [*(schedule.time(t) for t in range(364, -1, -1)), CLEAN]
    assert times[0].alpha == pytest.approx(0.5, abs=0.02)
    plan = trace_plan("test", solvers.ddpm, times, DenoiserFacts(schedule.spec, "epsilon"), strength=1.0)
    outputs, draws = rng.standard_normal((365, 3)), rng.standard_normal((366, 3))
    made = sample(plan, lambda i, step, u: [outputs[i]], lambda k: draws[k], np.float64, {"image": np.full(3, Y)})
    betas = np.linspace(1e-4, 0.02, 1000)
    bars = np.cumprod(1 - betas)
    x = math.sqrt(bars[364]) * Y + math.sqrt(1 - bars[364]) * draws[0]
    for i, t in enumerate(range(364, -1, -1)):
        x = (x - betas[t] / math.sqrt(1 - bars[t]) * outputs[i]) / math.sqrt(1 - betas[t])
        if t:
            x = x + math.sqrt((1 - bars[t - 1]) / (1 - bars[t]) * betas[t]) * draws[i + 1]
    assert made == pytest.approx(x, rel=1e-9)


def test_resfusions_table_of_twelve_leaves_five_steps():
    """The authors' schedule: betas of DDPM stretched to 12 steps, cut where alpha falls below 1/2, which ends the table
    (`linear_pro.py` of their code). The table is `betas`, and all of it is run."""
    stretched = np.linspace(1e-4, 0.02, 12) * 1000 / 12
    cut = int(np.argmax(np.cumprod(1 - stretched) <= 0.25))
    betas = np.append(stretched[:cut], 1 - 0.25 / np.prod(1 - stretched[:cut]))
    assert len(betas) == 5
    spec = ScheduleSpec("betas", 5, betas=tuple(betas.tolist()))
    plan = compile_plan("ddpm:5", DenoiserFacts(spec, "epsilon"), strength=1.0)
    assert ([step.time for step in plan.steps], plan.steps[0].alpha) == ([4, 3, 2, 1, 0], pytest.approx(0.5))
    rng, bars = np.random.default_rng(0), np.cumprod(1 - betas)
    outputs, draws = rng.standard_normal((5, 3)), rng.standard_normal((6, 3))
    restored = sample(plan, lambda i, step, u: [outputs[i]], lambda k: draws[k], np.float64, {"image": np.full(3, Y)})
    x = 0.5 * Y + math.sqrt(0.75) * draws[0]
    for i, t in enumerate(range(4, -1, -1)):
        x = (x - betas[t] / math.sqrt(1 - bars[t]) * outputs[i]) / math.sqrt(1 - betas[t])
        if t:
            x = x + math.sqrt((1 - bars[t - 1]) / (1 - bars[t]) * betas[t]) * draws[i + 1]
    assert restored == pytest.approx(x, rel=1e-9)
