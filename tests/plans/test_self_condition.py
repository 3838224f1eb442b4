"""A self-conditioned network receives the x0 of its previous evaluation, as in the authors' samplers."""

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.file import decode, encode
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.transforms import repeat_plan, tail, tail_inputs
from fewstep.runtime.sampling.execute import execute
from tests.plans.execute_plan import sample

COSINE, EDM = ScheduleSpec("cosine"), ScheduleSpec("edm", sigma_min=0.002, sigma_max=80)
FACTS = DenoiserFacts(COSINE, "epsilon", self_condition=True)
RNG = np.random.default_rng(0)
Z = RNG.standard_normal((3, 2, 4))  # [B, C, length]
DRAWS = RNG.standard_normal((9, *Z.shape))


def predict(x: np.ndarray, x0: np.ndarray, time: float, branch: str = "cond") -> np.ndarray:
    """A network that is linear in neither input."""
    return np.tanh(x + 0.5 * x0 + time / 1000) + (0.3 * x0 if branch == "cond" else 0.1)


def network(index, step, u):
    x, x0 = np.split(u, 2, axis=1)
    return [predict(x, x0, step.time, branch) for branch in step.branches]


def run(plan: Plan, given=None, net=network) -> np.ndarray:
    return sample(plan, net, lambda number: DRAWS[number - 1] if number else Z, np.float64, given)


def ddim_loop(plan: Plan, weight: float = 1.0, limit: float = np.inf) -> np.ndarray:
    """Algorithm 2 of Analog Bits: both branches of guidance get the guided, clipped x0 of the previous step."""
    times = [NoiseSchedule(COSINE).time(step.time) for step in plan.steps]
    x, x0 = times[0].sigma * Z, np.zeros_like(Z)
    for s, t in zip(times, [*times[1:], None], strict=True):
        eps = predict(x, x0, s.network) if weight == 1 else 0
        if weight != 1:
            cond, uncond = (predict(x, x0, s.network, branch) for branch in ("cond", "uncond"))
            eps = uncond + weight * (cond - uncond)
        x0 = np.clip((x - s.sigma * eps) / s.alpha, -limit, limit)
        eps = (x - s.alpha * x0) / s.sigma
        x = x0 if t is None else t.alpha * x0 + t.sigma * eps
    return x


def test_ddim():
    plan = compile_plan("ddim:4@leading", FACTS)
    np.testing.assert_allclose(run(plan), ddim_loop(plan), rtol=1e-9)


def test_guided_and_clipped():
    plan = compile_plan("ddim:4@leading", FACTS, 3.0, Clip(-0.8, 0.8))
    np.testing.assert_allclose(run(plan), ddim_loop(plan, 3.0, 0.8), rtol=1e-9)


def test_first_evaluation_receives_zeros():
    first = next(iter(execute(compile_plan("ddim:3", FACTS), network, lambda _: Z, np.float64)))
    assert first.u.shape == (3, 4, 4) and not first.u[:, 2:].any() and first.u[:, :2].any()


def test_each_evaluation_of_heun_receives_the_x0_before_it():
    """As in ElucidatedDiffusion of denoising-diffusion-pytorch: also the second evaluation of a step."""
    facts = DenoiserFacts(EDM, "edm", self_condition=True)
    states = list(execute(compile_plan("edm_heun:3@karras", facts), network, lambda _: Z, np.float64))
    assert len(states) == 5
    for before, after in zip(states[:-1], states[1:], strict=True):
        np.testing.assert_allclose(after.u[:, 2:], before.x0, rtol=1e-12)


def test_only_x_is_scaled_in_edm():
    """c_in is a factor of x, and not of x0."""
    facts = DenoiserFacts(EDM, "edm", self_condition=True)
    _, second, *_ = execute(compile_plan("edm_heun:3@karras", facts), network, lambda _: Z, np.float64)
    (row,) = [row for row, number in enumerate(second.step.estimate) if number]
    assert second.step.estimate[row] == 1
    assert max(second.step.input) == pytest.approx((second.step.sigma**2 + 0.5**2) ** -0.5)


@pytest.mark.parametrize("name, rows", [("ddim:4", 2), ("dpmpp_2m:4", 2), ("dpmpp_3m:5", 3), ("heun:3", 3)])
def test_rows(name, rows):
    """x0 needs one more row, which a multistep solver already has."""
    assert compile_plan(name, FACTS).rows == rows


@pytest.mark.parametrize("name", ["ddim:4", "dpmpp_2m:4", "ddim(eta=1):4", "heun:3"])
def test_tail_continues_with_x0(name):
    plan = compile_plan(name, FACTS)
    states = list(execute(plan, network, lambda number: DRAWS[number - 1] if number else Z, np.float64))
    rest = tail(plan, 2)
    np.testing.assert_array_equal(
        run(rest, tail_inputs(states[1].after), lambda index, step, u: network(index + 2, step, u)), run(plan)
    )


def test_repeated_run_begins_with_zeros():
    plan = repeat_plan(compile_plan("ddim:2", FACTS), 2)
    states = list(execute(plan, network, lambda number: DRAWS[number], np.float64))
    assert [bool(state.u[:, 2:].any()) for state in states] == [False, True, False, True]


def test_image_to_image_begins_with_zeros():
    plan = compile_plan("ddim:4", FACTS, strength=0.5)
    first, second = execute(plan, network, lambda number: DRAWS[number], np.float64, {"image": Z})
    assert not first.u[:, 2:].any() and second.u[:, 2:].any()


def test_plan_file():
    plan = compile_plan("dpmpp_2m:4", FACTS, 2.0)
    assert decode(encode(plan)) == plan


def test_other_plans_have_no_estimate():
    plain = compile_plan("ddim:4", DenoiserFacts(COSINE, "epsilon"))
    assert b"estimate" not in encode(plain) and all(step.estimate == () for step in plain.steps)
