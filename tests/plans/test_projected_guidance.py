"""Plans with projected guidance, against a loop of its formula (arXiv 2410.02416) around DDIM's."""

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.guidance import Pag
from fewstep.plans.shaping import Project
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import execute, finish
from tests.refusals import refuses

DENOISING = DenoiserFacts(ScheduleSpec("cosine"), "v")
NOISE = np.random.default_rng(3).standard_normal((2, 3, 4, 4)).astype(np.float32)
COND = np.random.default_rng(4).standard_normal((4, 2, 3, 4, 4)).astype(np.float32)
UNCOND = np.random.default_rng(5).standard_normal((4, 2, 3, 4, 4)).astype(np.float32)


def follow_formula(plan, weight, form):
    """Return the sample of a plan's DDIM steps, with projected guidance written out."""
    x, average = plan.steps[0].sigma * NOISE.astype(np.float64), 0.0
    ends = [*((step.alpha, step.sigma) for step in plan.steps[1:]), (1.0, 0.0)]
    for number, (step, (alpha, sigma), cond, uncond) in enumerate(zip(plan.steps, ends, COND, UNCOND, strict=True)):
        average = cond - uncond + form.momentum * average
        axes = (1, 2, 3) if form.axis is None else (form.axis,)
        d = average * np.minimum(1, form.limit / np.sqrt((average**2).sum(axis=axes, keepdims=True)))
        n = cond / np.sqrt((cond**2).sum(axis=axes, keepdims=True))
        p = d - (1 - form.eta) * (d * n).sum(axis=axes, keepdims=True) * n
        p = p if number >= form.start else cond - uncond
        v = uncond + weight * p if form.from_uncond else cond + (weight - 1) * p
        x0, noise = step.alpha * x - step.sigma * v, step.sigma * x + step.alpha * v
        x = alpha * x0 + sigma * noise
    return x


def outputs_of(index, step, u):
    return [{"cond": COND, "uncond": UNCOND}[branch][index] for branch in step.branches]


@pytest.mark.parametrize(
    "form",
    [Project(0.0, 2.5, -0.75, -2), Project(1.0, 4.0, 0.5, None, True), Project(0.4, 3.0, 0.3, -3, True, 2)],
    ids=str,
)
def test_a_run_is_that_of_the_formula(form):
    plan = compile_plan("ddim:4", DENOISING, guidance=5.0, shaping=form)
    found = finish(plan, execute(plan, outputs_of, {0: NOISE}.__getitem__))
    np.testing.assert_allclose(found, follow_formula(plan, 5.0, form), atol=2e-5)


def test_momentum_takes_one_more_row():
    rows = [compile_plan("ddim:4", DENOISING, guidance=5.0, shaping=Project(momentum=m)).rows for m in (0.0, 0.5)]
    assert rows == [1, 2]


def test_without_guidance_nothing_is_projected():
    assert compile_plan("ddim:2", DENOISING, shaping=Project()) == compile_plan("ddim:2", DENOISING)


def test_other_branches_are_refused_by_name():
    with refuses("projected guidance needs the branches 'cond' and 'uncond'"):
        compile_plan("ddim:2", DENOISING, guidance=Pag(3.0), shaping=Project())
