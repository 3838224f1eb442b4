"""Decisions frozen into plans, on networks whose branches agree in a known way."""

import numpy as np
import pytest

from fewstep.fitting.guidance import Outputs, adaptive, collect, linear, similarity
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Cfg
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.execute import execute, sample

DENOISING = DenoiserFacts(ScheduleSpec("cosine"), "v")
PLAN = compile_plan("dpmpp_2m:6", DENOISING, 3.0)
X = np.random.default_rng(0).standard_normal((2, 4, 16))


def run(plan, network, x):
    return execute(plan, network, lambda draw: x, np.float64)


def test_guidance_ends_after_the_step_where_the_branches_agree():
    apart = np.random.default_rng(1).standard_normal((4, 16))

    def network(index, step, u):
        return [np.tanh(u), np.tanh(u) + (2.0 if index < 3 else 0.0) * apart][: len(step.branches)]

    outputs = collect(PLAN, [run(PLAN, network, x) for x in X])
    assert outputs.cond.shape == (6, 8, 16)
    assert similarity(outputs)[3:] == pytest.approx([1, 1, 1]) and (similarity(outputs)[:3] < 0.95).all()
    frozen = adaptive(3.0, outputs)
    assert frozen == Cfg((3.0, 3.0, 3.0, 3.0, 1.0))
    plan = compile_plan("dpmpp_2m:6", DENOISING, frozen)
    assert sum(len(step.branches) for step in plan.steps) == 10  # of 12
    full, short = (sample(p, network, lambda draw: X[0], np.float64) for p in (PLAN, plan))
    assert short == pytest.approx(full, abs=1e-12)
    assert adaptive(3.0, outputs, threshold=2.0) == Cfg((3.0,) * 6)


def test_a_linear_rule_is_found_and_replaces_the_branch():
    kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def network(index, step, u):
        cond, uncond = np.tanh(u) + step.time / 1000, np.cos(u)
        if index >= 2:
            uncond = 0.6 * cond - 0.2 * kept[index - 1][0] + 0.5 * kept[index - 1][1]
        kept[index] = cond, uncond
        return [cond, uncond][: len(step.branches)]

    rule = linear(3.0, collect(PLAN, [run(PLAN, network, x) for x in X]), after=2)
    assert (*rule.cond, *rule.uncond) == pytest.approx((0.6, -0.2, 0.5), abs=1e-9)
    plan = compile_plan("dpmpp_2m:6", DENOISING, rule)
    assert sum(len(step.branches) for step in plan.steps) == 8
    full = sample(PLAN, network, lambda draw: X[0], np.float64)
    assert sample(plan, network, lambda draw: X[0], np.float64) == pytest.approx(full, abs=1e-8)


def test_what_cannot_be_measured_is_named():
    with pytest.raises(UserError, match="does not evaluate cond and uncond at each step"):
        collect(compile_plan("ddim:4", DENOISING), [])
    with pytest.raises(UserError, match="no trajectories to measure"):
        collect(PLAN, [])
    outputs = collect(PLAN, [run(PLAN, lambda i, step, u: [u, u], X[0])])
    with pytest.raises(UserError, match="after 1 of 6 evaluations with 2 terms"):
        linear(3.0, outputs, after=1)


def test_an_output_of_zeros_is_like_nothing():
    outputs = Outputs(np.array([[[1.0, 0.0], [0.0, 2.0]]]), np.array([[[0.0, 0.0], [0.0, 1.0]]]))
    assert similarity(outputs) == pytest.approx([0.5])
