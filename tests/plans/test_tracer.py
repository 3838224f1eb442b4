"""Methods of the tracer besides x and x0: given tensors, heads, tensor coefficients, a second time."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.plans import solvers
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.grids import trailing
from fewstep.plans.guidance import CfgPlusPlus
from fewstep.plans.plan import DENOISER
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import PURE_NOISE, DenoiserFacts, NetworkFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import Hold, execute
from tests.plans.execute_plan import sample, tanh
from tests.refusals import refuses

COSINE = ScheduleSpec("cosine")
DENOISING = DenoiserFacts(COSINE, "sample")
X = np.linspace(-1, 1, 6).reshape(2, 3)
Y = np.arange(6.0).reshape(2, 3)


def times(steps):
    return trailing(NoiseSchedule(COSINE), steps)


def trace(solver, steps=2, denoising=DENOISING, **options):
    plan = trace_plan("test:1", solver, times(steps), denoising, **options)
    assert decode(encode(plan)) == plan
    return plan


def test_a_given_tensor_is_a_row_as_long_as_it_is_needed():
    def solver(trace, times):
        y = trace.given("y")
        x = trace.store(2.0 * y + 0.5 * trace.noise())
        for s in times[:-1]:
            x, x0 = trace.denoise(x, s)
            x = x0 + 0.25 * y
        return x

    plan = trace(solver)
    assert (plan.given, plan.rows) == (("y",), 2)
    inputs = []
    made = sample(plan, lambda i, step, u: inputs.append(u) or [u + 1], lambda draw: X, np.float64, {"y": Y})
    assert inputs[0] == pytest.approx(2 * Y + 0.5 * X)
    assert made == pytest.approx(2 * Y + 0.5 * X + 2 + 0.5 * Y)


def test_a_tensor_is_given_before_the_first_evaluation():
    def late(trace, times):
        x, _ = trace.denoise(trace.start(), times[0])
        return x + trace.given("y")

    with pytest.raises(TypeError, match="at the start only"):
        trace(late)


def test_coefficients_may_be_tensors_and_tensors_may_be_added():
    gain, bias = np.array([1.0, 2.0, -1.0]), np.array([0.5, 0.0, 0.25])

    def solver(trace, times):
        x = trace.store(gain * trace.noise() + 3.0 * trace.ones())
        x, x0 = trace.denoise(x, times[0])
        return (gain * x0 - 2.0 * x) + bias * trace.ones()

    plan = trace(solver, steps=1)
    made = sample(plan, lambda i, step, u: [np.sin(u)], lambda draw: X, np.float64)
    start = gain * X + 3
    np.testing.assert_allclose(made, gain * np.sin(start) - 2 * start + bias)
    assert len(plan.tensors) == 3 and plan.rows == 1


def test_a_network_runs_the_steps_below_its_log_snr_and_not_the_one_at_it():
    expert = NetworkFacts("noisy", times(4)[2].lam, "sample")
    plan = trace(solvers.ddim, 4, replace(DENOISING, networks=(expert,)))
    assert [step.network for step in plan.steps] == ["noisy", "noisy", DENOISER, DENOISER]


@pytest.mark.parametrize("steps", [1, 4])
def test_a_network_for_pure_noise_takes_the_first_step_of_a_schedule_that_begins_there(steps):
    """No further step is put before it."""
    pure = ScheduleSpec("scaled-linear", zero_terminal_snr=True)
    facts = DenoiserFacts(pure, "v", networks=(NetworkFacts("oms", PURE_NOISE, "sample"),))
    plan = compile_plan(f"ddim:{steps}@trailing", facts)
    assert [step.network for step in plan.steps] == ["oms", *[DENOISER] * (steps - 1)]


def test_a_network_of_two_heads_gives_both_to_the_solver_and_the_first_to_the_rest():
    def solver(trace, times):
        x, (residual, noise) = trace.outputs(trace.start(), times[0])
        return x - residual - 0.5 * noise

    two = DenoiserFacts(COSINE, "sample", heads=2)
    plan = trace(solver, steps=1, denoising=two, guidance=2.0)
    start = X * plan.steps[0].sigma

    def network(index, step, u):
        return [u, 2 * u, 3 * u, 5 * u]  # cond: two heads, uncond: two heads

    residual, noise = 2 * start - 3 * start, 2 * 2 * start - 5 * start
    assert sample(plan, network, lambda draw: X, np.float64) == pytest.approx(start - residual - 0.5 * noise)
    ddim = compile_plan("ddim:1", two)
    first = sample(ddim, lambda i, step, u: [np.sin(u), np.full_like(u, np.nan)], lambda draw: X, np.float64)
    assert first == pytest.approx(np.sin(start))


def test_the_network_may_get_a_second_time():
    def solver(trace, times):
        x = trace.start()
        for s, t in zip(times, times[1:], strict=False):
            _, x = trace.denoise(x, s, to=t)
        return x

    plan = trace(solver, steps=3)
    assert [step.to for step in plan.steps] == [*(step.time for step in plan.steps[1:]), 0.0]


def test_noising_that_reverts_to_a_tensor_is_seen_by_the_network_alone():
    """x_t = alpha x0 + (1 - alpha) y + sigma eps: only the network sees x_t, and with the exact answer any solver
    ends at x0 for any y.
    """
    towards = DenoiserFacts(COSINE, "sample", towards="y")
    plan = trace(solvers.dpmpp_2m, steps=4, denoising=towards)
    assert plan.given == ("y",)
    inputs = []

    def network(index, step, u):
        inputs.append(u)
        return [np.full_like(u, 0.7)]

    assert sample(plan, network, lambda draw: X, np.float64, {"y": Y}) == pytest.approx(np.full_like(X, 0.7))
    alpha, sigma = plan.steps[0].alpha, plan.steps[0].sigma
    assert inputs[0] == pytest.approx(Y + sigma * X)
    alpha, sigma = plan.steps[1].alpha, plan.steps[1].sigma
    eps = ((inputs[0] - (1 - plan.steps[0].alpha) * Y) - plan.steps[0].alpha * 0.7) / plan.steps[0].sigma
    assert inputs[1] == pytest.approx(alpha * 0.7 + (1 - alpha) * Y + sigma * eps)


def test_image_to_image_starts_from_the_noised_image():
    plan = compile_plan("dpmpp_2m:8", DENOISING, strength=0.5)
    whole = compile_plan("dpmpp_2m:8", DENOISING)
    assert [step.time for step in plan.steps] == [step.time for step in whole.steps[4:]]
    first = next(iter(execute(plan, lambda i, step, u: [u], lambda draw: X, np.float64, {"image": Y})))
    assert first.u == pytest.approx(first.step.alpha * Y + first.step.sigma * X)
    assert compile_plan("ddim:8", DENOISING, strength=1.0).given == ("image",)
    assert len(compile_plan("ddim:8", DENOISING, strength=0.01).steps) == 1
    for strength in (0.0, 1.5, -1.0):
        with pytest.raises(UserError, match="strength"):
            compile_plan("ddim:8", DENOISING, strength=strength)


@pytest.mark.parametrize("renoise", [0.0, 0.6, 1.0])
def test_renoise_is_the_share_of_the_noise_that_an_image_is_given(renoise):
    plan = compile_plan("dpmpp_2m:8", DENOISING, strength=0.5, renoise=renoise)
    first = next(iter(execute(plan, lambda i, step, u: [u], lambda draw: X, np.float64, {"image": Y})))
    kept = np.sqrt(1 - renoise**2 * (1 - first.step.alpha**2))
    assert first.u == pytest.approx(kept * Y + renoise * first.step.sigma * X)
    assert decode(encode(plan)) == plan and plan.renoise == renoise
    assert plan.steps == compile_plan("dpmpp_2m:8", DENOISING, strength=0.5).steps


def test_renoise_needs_an_image_and_a_share():
    with pytest.raises(UserError, match="renoise needs a strength"):
        compile_plan("ddim:8", DENOISING, renoise=0.5)
    for renoise in (-0.1, 1.1, "half"):
        with pytest.raises(UserError, match="renoise .* is not in"):
            compile_plan("ddim:8", DENOISING, strength=0.5, renoise=renoise)
    restoring = DenoiserFacts(ScheduleSpec("flow"), "flow", towards="y")
    with refuses(("'y'", "renoise")):
        compile_plan("ddim:8", restoring, strength=0.5, renoise=0.5)


@pytest.mark.parametrize("name", ["ddim:5", "dpmpp_2m:5", "heun:3"])
def test_what_is_held_is_noised_with_the_time_and_exact_at_the_end(name):
    plan = compile_plan(name, DENOISING)
    mask = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])
    inputs = []

    def network(index, step, u):
        inputs.append(u)
        return [np.tanh(u)]

    made = sample(plan, network, lambda draw: X, np.float64, hold=Hold(Y, mask))
    for step, u in zip(plan.steps, inputs, strict=True):
        assert u[mask == 1] == pytest.approx((step.alpha * Y + step.sigma * X)[mask == 1])
    assert made[mask == 1] == pytest.approx(Y[mask == 1])
    free = sample(plan, tanh, lambda draw: X, np.float64)
    assert made[mask == 0] == pytest.approx(free[mask == 0])  # this network looks at one element at a time


def test_an_image_is_given_at_full_strength_even_where_it_is_all_noise():
    """A flow starts at alpha = 0, where the image has the coefficient 0. Callers still give it."""
    flow = DenoiserFacts(ScheduleSpec("flow"), "flow")
    image, plain = compile_plan("ddim:4", flow, strength=1.0), compile_plan("ddim:4", flow)
    assert image.given == ("image",) and decode(encode(image)) == image

    expected = sample(plain, tanh, lambda draw: X, np.float64)
    assert sample(image, tanh, lambda draw: X, np.float64, {"image": Y}) == pytest.approx(expected)


def test_a_tensor_asked_for_twice_is_given_once():
    def solver(trace, times):
        x, x0 = trace.denoise(trace.start(), times[0])
        return x0

    def asks_again(trace, times):
        start = trace.start()
        x, x0 = trace.denoise(trace.store(start + trace.given("y")), times[0])
        return x0

    towards = DenoiserFacts(COSINE, "sample", towards="y")
    assert trace(solver, steps=1, denoising=towards).given == ("y",)
    assert trace(asks_again, steps=1, denoising=towards).given == ("y",)


def test_a_solver_of_raw_outputs_takes_no_shape_of_x0():
    def solver(trace, times):
        _, (output,) = trace.outputs(trace.start(), times[0])
        return output

    with refuses("x0", "leave it out"):
        trace(solver, steps=1, shaping=Clip(-1, 1))
    with pytest.raises(UserError, match="CFG[+][+] acts on x0"):
        trace(solver, steps=1, guidance=CfgPlusPlus(0.5))


def test_a_solver_that_divides_by_zero_is_named():
    def solver(trace, times):
        return trace.start() / float(times[-1].sigma)

    with refuses(("plan 'test:1' has coefficients that are not finite", "999 .. 0")):
        trace(solver)
    with refuses(("'x'", "1 times"), "two or more"):
        trace_plan("x", solver, times(1)[:1], DENOISING)


def test_nothing_is_held_where_no_row_is_x():
    towards = compile_plan("ddim:3", DenoiserFacts(COSINE, "sample", towards="y"))
    with refuses(("network's input", "2 state tensors")):
        sample(towards, lambda i, step, u: [u], lambda draw: X, np.float64, {"y": Y}, Hold(Y, np.ones_like(Y)))
