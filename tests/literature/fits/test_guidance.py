"""Decisions frozen into plans, on networks whose branches agree in a known way."""

from itertools import pairwise

import numpy as np
import pytest

from fewstep.literature.fits.guidance import guidance_per_sample, similarities
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Cfg
from fewstep.plans.prediction import input_scale, x0_coefficients
from fewstep.plans.schedule import Time
from fewstep.plans.shaping import Clip, Rescale
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import execute

DENOISING = DenoiserFacts(ScheduleSpec("cosine"), "v")
PLAN = compile_plan("dpmpp_2m:6", DENOISING, 3.0)
X = np.random.default_rng(0).standard_normal((2, 4, 16))


def run(plan, network, x):
    return execute(plan, network, lambda draw: x, np.float64)


def test_noises_of_branches_are_alike_where_the_branches_agree():
    apart = np.random.default_rng(1).standard_normal((6, 4, 16))

    def network(index, step, u):
        return [np.tanh(u), np.tanh(u) + (8.0 if index < 3 else 0.0) * apart[index]][: len(step.branches)]

    cosines = similarities(PLAN, [run(PLAN, network, x) for x in X])
    assert cosines.shape == (6, 8)
    assert cosines[3:] == pytest.approx(np.ones((3, 8))) and (cosines[1:3].mean(1) < 0.95).all()
    assert cosines[0] == pytest.approx(np.ones(8), abs=2e-3)  # x is nearly all noise there, whatever v says


MEANS = np.random.default_rng(2).standard_normal((2, 16)) / 2


def gaussian(denoiser, means=MEANS, spread=0.05):
    """The exact denoiser of one Gaussian for each branch, with the prediction of `denoiser`."""

    def network(index, step, u):
        time = Time(step.time, step.alpha, step.sigma)
        x = u / input_scale(denoiser.prediction, time, denoiser.schedule)
        a, b = x0_coefficients(denoiser.prediction, time, denoiser.schedule)
        gain = time.alpha * spread**2 / (time.alpha**2 * spread**2 + time.sigma**2)
        x0s = [mean + gain * (x - time.alpha * mean) for mean in means]
        return [(x0 - a * x) / b for x0 in x0s][: len(step.branches)]

    return network


@pytest.mark.parametrize("shape", [None, Clip(-1, 1), Rescale(0.7)])
@pytest.mark.parametrize(
    ("spec", "predictions"),
    [
        (ScheduleSpec("linear"), ("epsilon", "v", "sample", "score")),
        (ScheduleSpec("edm"), ("edm", "v", "sample", "epsilon")),
        (ScheduleSpec("flow"), ("flow", "sample")),
    ],
)
def test_the_decision_does_not_depend_on_the_prediction(spec, predictions, shape):
    """The same denoiser with every prediction: the cosines are those of its noises."""
    found = []
    for prediction in predictions:
        denoiser = DenoiserFacts(spec, prediction)
        plan = compile_plan("ddim:8", denoiser, 1.5, shape)
        states = [state for x in X for state in run(plan, gaussian(denoiser), x)]
        means = similarities(plan, [iter(states[:8]), iter(states[8:])]).mean(1)
        expected = []
        for index, step in enumerate(plan.steps):
            cosines = []
            for state in (states[index], states[8 + index]):
                scale = input_scale(prediction, Time(step.time, step.alpha, step.sigma), spec)
                x, x0s = state.u / scale, gaussian(DenoiserFacts(spec, "sample"))(index, step, state.u / scale)
                cond, uncond = ((x - step.alpha * x0) / step.sigma for x0 in x0s)
                cosines += [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(cond, uncond, strict=True)]
            expected.append(np.mean(cosines))
        assert means == pytest.approx(expected, abs=1e-9)
        found.append(means)
    assert min(found[0]) < 0.9 < max(found[0])
    for first, second in pairwise(found if not isinstance(shape, Rescale) else ()):  # it acts on outputs as they are
        assert first == pytest.approx(second, abs=1e-6)


def test_what_cannot_be_measured_is_named():
    with pytest.raises(UserError, match="does not evaluate cond and uncond at each step"):
        similarities(compile_plan("ddim:4", DENOISING), [])
    with pytest.raises(UserError, match="no trajectories to measure"):
        similarities(PLAN, [])
    restoring = compile_plan("ddim:4@linspace", DenoiserFacts(ScheduleSpec("ou"), "score", towards="y"), 2.0)
    states = execute(restoring, lambda i, step, u: [u, u], lambda draw: X[0], np.float64, {"y": X[1]})
    with pytest.raises(UserError, match="the plan restores, or is of an older version"):
        similarities(restoring, [states])


def test_an_output_of_zeros_is_like_nothing():
    plan = compile_plan("ddim:2", DenoiserFacts(ScheduleSpec("linear"), "epsilon"), 2.0)
    states = run(plan, lambda i, step, u: [np.ones_like(u), np.zeros_like(u)], np.zeros_like(X[0]))
    assert similarities(plan, [states])[0].tolist() == [0, 0, 0, 0]


def test_each_sample_ends_its_guidance_where_its_own_branches_agree():
    """Algorithm 1 of the paper, and one batch with the plans that it chooses."""
    cosines = np.array([[0.2, 0.5], [0.6, 0.7], [0.95, 0.8], [0.3, 0.99], [0.5, 0.992], [0.95, 0.2]])
    chosen = guidance_per_sample(3.0, cosines, threshold=0.9)
    assert chosen == [Cfg((3.0,) * 3 + (1.0,)), Cfg((3.0,) * 4 + (1.0,))]
    plans = [compile_plan("dpmpp_2m:6", DENOISING, each) for each in chosen]
    assert [sum(len(step.branches) for step in plan.steps) for plan in plans] == [9, 10]
    assert guidance_per_sample(3.0, cosines) == [Cfg((3.0,) * 6), Cfg((3.0,) * 5 + (1.0,))]  # at the paper's 0.991
