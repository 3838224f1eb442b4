"""Resfusion: the steps of DDPM, from a degraded image."""

import math

import numpy as np
import pytest

from fewstep.plans import solvers
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.schedule import CLEAN, NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.execute_plan import record_inputs

Y = -0.6


def by_hand(betas, outputs, draws):
    """DDPM's recurrence from the last beta down, beginning at alpha y + sigma z."""
    bars, last = np.cumprod(1 - betas), len(outputs) - 1
    x = math.sqrt(bars[last]) * Y + math.sqrt(1 - bars[last]) * draws[0]
    for i, t in enumerate(range(last, -1, -1)):
        x = (x - betas[t] / math.sqrt(1 - bars[t]) * outputs[i]) / math.sqrt(1 - betas[t])
        if t:
            x = x + math.sqrt((1 - bars[t - 1]) / (1 - bars[t]) * betas[t]) * draws[i + 1]
    return x


def test_resfusion_is_ddpm_from_the_degraded_image():
    """Resfusion (Shi et al. 2024, arXiv 2311.14900): equation 33 is DDPM's step, on a denoiser of its "resnoise", and
    sampling starts where alpha is 1/2, from alpha y + sigma z."""
    schedule, rng = NoiseSchedule(ScheduleSpec("linear")), np.random.default_rng(0)
    times = [*(schedule.time(t) for t in range(364, -1, -1)), CLEAN]
    assert times[0].alpha == pytest.approx(0.5, abs=0.02)
    plan = trace_plan("test", solvers.ddpm, times, DenoiserFacts(schedule.spec, "epsilon"), strength=1.0)
    outputs, draws = rng.standard_normal((365, 3)), rng.standard_normal((366, 3))
    made, _ = record_inputs(plan, outputs[:, None], draws, {"image": np.full(3, Y)})
    assert made == pytest.approx(by_hand(np.linspace(1e-4, 0.02, 1000), outputs, draws), rel=1e-9)


def test_resfusions_table_of_twelve_leaves_five_steps():
    """The authors' schedule: betas of DDPM stretched to 12 steps, and cut where alpha falls below 1/2
    (`linear_pro.py` of their code). The table is `betas`, and all of it is run.
    """
    stretched = np.linspace(1e-4, 0.02, 12) * 1000 / 12
    cut = int(np.argmax(np.cumprod(1 - stretched) <= 0.25))
    betas = np.append(stretched[:cut], 1 - 0.25 / np.prod(1 - stretched[:cut]))
    assert len(betas) == 5
    spec = ScheduleSpec("betas", 5, betas=tuple(betas.tolist()))
    plan = compile_plan("ddpm:5", DenoiserFacts(spec, "epsilon"), strength=1.0)
    assert ([step.time for step in plan.steps], plan.steps[0].alpha) == ([4, 3, 2, 1, 0], pytest.approx(0.5))
    rng = np.random.default_rng(0)
    outputs, draws = rng.standard_normal((5, 3)), rng.standard_normal((6, 3))
    restored, _ = record_inputs(plan, outputs[:, None], draws, {"image": np.full(3, Y)})
    assert restored == pytest.approx(by_hand(betas, outputs, draws), rel=1e-9)
