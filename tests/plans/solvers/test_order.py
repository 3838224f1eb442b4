"""Convergence, cost and exactness of every deterministic solver, in float64 on exact denoisers."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.listing import solver_listings
from fewstep.plans.names.plan_name import SOLVERS
from fewstep.plans.publication import facts_of
from fewstep.plans.schedule import NoiseSchedule
from tests.plans.convergence import STARTS, slope
from tests.plans.execute_plan import sample, solver
from tests.plans.gaussian import COSINE, FAMILIES, FLOW, LINEAR, denoising, one_point, run
from tests.plans.mixture import compile_solver

# Deterministic forms whose parameters change the arithmetic. The slope of the error and the rows
# are as published of the solver, but for those named in SLOPES and ROWS.
FORMS = [
    "bdia(gamma=0.5)",
    "dpm_2m(midpoint=False)",
    "dpm_singlestep_2(midpoint=False)",
    "dpm_singlestep_3(midpoint=False)",
    "dpmpp_2m(midpoint=False)",
    "dpmpp_singlestep_2(midpoint=False)",
    "dpmpp_singlestep_3(midpoint=False)",
    "ghvb(order=1)",
    "ghvb(order=3)",
    "ghvb(order=4)",
    "gradient_estimation(gamma=1.5)",
    "hb(order=1)",
    "hb(beta=0.5, order=4)",
    "nesterov(beta=0.5, order=4)",
    "unipc_1(on_noise=True)",
    "unipc_2(bh1=True)",
    "unipc_2(on_noise=True)",
    "unipc_3(on_noise=True)",
    *(f"sa_solver(tau=0, predictor={p}, corrector={c})" for p, c in ((1, 0), (2, 0), (3, 0), (1, 2), (2, 2), (3, 4))),
]
SLOPES = {
    "gradient_estimation(gamma=1.5)": 2.0,
    "ctm": 1.0,  # nothing is published: it is made for distilled denoisers
    "bdia(gamma=0.5)": 1.0,
    "ghvb(order=1)": 1.0,
    "lms_3": 2.9,  # high orders are not quite reached over 66 to 258 steps
    "lms_4": 3.85,
    "deis_t_4": 3.8,
    "sa_solver(tau=0, predictor=1, corrector=0)": 1.0,
    "sa_solver(tau=0, predictor=3, corrector=0)": 3.0,
    "sa_solver(tau=0, predictor=3, corrector=4)": 4.0,
}
ROWS = {
    "er_sde(order=1)": 1,
    "ghvb(order=3)": 3,
    "ghvb(order=4)": 4,
    "hb(order=1)": 2,
    "hb(beta=0.5, order=4)": 5,
    "hb_unipc(order=3)": 6,
    "nesterov(beta=0.5, order=4)": 5,
    "sa_solver(tau=0, predictor=1, corrector=0)": 1,
    "sa_solver(tau=0, predictor=2, corrector=0)": 2,
    "sa_solver(tau=0, predictor=1, corrector=2)": 2,
    "sa_solver(tau=0, predictor=3, corrector=4)": 4,
    "sa_solver(predictor=4, corrector=4)": 5,
}
# Those that draw noise.
STOCHASTIC = {"consistency", "ddpm", "dpm_1_sde", "dpm_2m_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde", "er_sde"}
STOCHASTIC |= {"flow_ancestral", "lcm", "renoise", "sa_solver", "score_sde_pc", "stochastic_distilled", "tcd"}
NOISY_FORMS = ["ddim(eta=0.5)", "dpm_2(eta=1)", "dpmpp_2s(eta=1)", "dpmpp_singlestep_2(eta=1)", "edm_heun(s_churn=4)"]
NOISY_FORMS += ["dpmpp_singlestep_3(eta=1)", "edm_euler(s_churn=4)"]
# Those that start from tensors of the caller; they have tests of their own.
GIVEN = ("bdia_inverse", "ddim_inverse", "edict_inverse", "interpolant", "rddm", "resshift", "sgmse")
# rfpp goes somewhere else where trajectories bend. EDICT evaluates at a time that x is not at, so it is exact for no
# data; test_inverses.py has its tests. The weights of hb_unipc do not add up to 1, so it is exact for no data;
# test_momentum.py has its tests.
OTHERS = {*GIVEN, "rfpp", "edict", "hb_unipc"}
DETERMINISTIC = [name for name in SOLVERS.names() if name not in STOCHASTIC | OTHERS] + FORMS
# Evaluations in 10 steps from the noisiest timestep to clean, where they are not 10.
EVALUATIONS = {"edm_heun": 19, "heun": 19, "dpm_2": 19, "dpm_3": 28, "dpmpp_2s": 19, "dpmpp_3s": 28, "f_pndm": 19}
EVALUATIONS |= {"pndm": 11, "s_pndm": 11, "rk4": 37, "dpm_2(eta=1)": 19, "dpmpp_2s(eta=1)": 19, "dpmpp_sde": 19}
EVALUATIONS |= {"edm_heun(s_churn=4)": 19, "score_sde_pc": 20, "edict": 20, "bdia_inverse": 9, "edict_inverse": 20}
NEEDED = {*DETERMINISTIC, *STOCHASTIC, *NOISY_FORMS, *ROWS, "rfpp", "edict", "hb_unipc", *GIVEN[:3]}
# Those that multiply differences of predicted noise by sigma / alpha, which is 20 000 where the cosine schedule starts.
ON_NOISE = [
    name
    for name in DETERMINISTIC
    if name.startswith(("dpm_", "edm_heun", "rk4")) or "on_noise" in name or "pndm" in name
]
# Deterministic ones whose order test_inversion.py, test_inverses.py, test_interpolant.py and test_restoration.py
# measure; test_stochastic.py has the others.
MEASURED_ELSEWHERE = {"ddim_inverse", "edict", "interpolant", "rddm"}


def order(name):
    return SLOPES.get(name) or facts_of(solver(name)).order


def rows(name):
    return ROWS.get(name) or facts_of(solver(name)).rows


def test_every_solver_is_listed_with_its_paper():
    assert [listing.name for listing in solver_listings()] == SOLVERS.names()
    assert all(listing.paper for listing in solver_listings())


def test_every_solver_is_of_a_known_kind():
    known = {listing.name: listing for listing in solver_listings()}
    assert {name for name, each in known.items() if each.is_stochastic and not each.given} == STOCHASTIC
    assert [name for name, each in known.items() if each.given] == [*GIVEN]


def test_every_published_order_is_measured():
    for listing in solver_listings():
        if listing.order is not None and listing.name not in MEASURED_ELSEWHERE:
            assert listing.name in DETERMINISTIC or listing.is_stochastic


def test_what_is_measured_here_is_the_published_order():
    for listing in solver_listings():
        if listing.order is not None and listing.name in DETERMINISTIC:
            assert order(listing.name) == pytest.approx(listing.order, abs=0.25)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_every_plan_has_the_published_rows(name):
    facts = facts_of(SOLVERS.find(name))
    for steps in (10, 20):
        assert compile_plan(f"{name}:{steps}", facts.made_for or denoising(COSINE, "v")).rows == facts.rows


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_solver_converges_with_its_order(name):
    """Averaged over 66 to 258 steps: if the schedule is a table, its corners make single slopes uneven."""
    assert slope(solver(name), COSINE, "v") == pytest.approx(order(name), abs=0.25)


@pytest.mark.parametrize("bend", [-0.5, pytest.param(0.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_solver_keeps_its_order_on_uneven_grids(name, bend):
    """Steps in lambda that grow or shrink threefold from start to end."""
    assert slope(solver(name), FLOW, "flow", bend) == pytest.approx(order(name), abs=0.25)


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_rows_and_evaluations_are_what_the_method_needs(name):
    plan = compile_plan(f"{name}:10", denoising(COSINE, "v"), guidance=2.0)
    assert plan.rows == rows(name)
    assert len(plan.steps) == EVALUATIONS.get(name, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_data_that_is_one_point_is_reached_exactly_in_any_number_of_steps(name):
    """From the noisiest time (pure noise in a flow) to the clean end, with constant x0 and eps."""
    for spec, prediction in FAMILIES:
        network, rounding = one_point(prediction), 1e-7 if spec == COSINE and name in ON_NOISE else 1e-9
        for steps in (1, 2, 3, 6):
            if spec == COSINE and name == "f_pndm" and steps > 1:
                continue  # its Runge-Kutta steps multiply by 20 000 three times over
            plan = compile_plan(f"{name}:{steps}", denoising(spec, prediction))
            end = sample(plan, network, lambda k: STARTS, np.float64)
            assert end == pytest.approx(np.full(9, 0.7), abs=rounding), (spec.kind, prediction, steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_float32_costs_little(name):
    for spec, prediction in ((LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")):
        if name in ON_NOISE and spec == COSINE:
            continue  # docs/samplers.md says what it costs them
        for steps in (8, 50):
            plan = compile_plan(f"{name}:{steps}", denoising(spec, prediction))
            x = np.linspace(-3, 3, 101).astype(np.float32)
            off = np.abs(run(plan, spec, [x], np.float32) - run(plan, spec, [x.astype(np.float64)])).max()
            assert off < 3e-5, (spec.kind, steps)


@pytest.mark.parametrize("name", [name for name in SOLVERS.names() if name not in GIVEN])
def test_no_solver_starts_a_flow_on_predicted_noise(name):
    with pytest.raises(UserError, match="epsilon prediction does not determine x0"):
        compile_plan(f"{name}:4", denoising(FLOW, "epsilon"))


@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
def test_times_between_lie_on_the_schedule(spec, prediction):
    """The middle evaluation of a singlestep solver is halfway in lambda, at the schedule's network time."""
    plan = compile_plan("dpm_2:5", denoising(spec, prediction))
    lams = [-math.inf if step.lam is None else step.lam for step in plan.steps]
    first = 1 if spec == FLOW else 0  # a step from pure noise has no middle
    for before, middle, after in zip(lams[first::2], lams[first + 1 :: 2], lams[first + 2 :: 2]):
        assert middle == pytest.approx((before + after) / 2, abs=1e-12)
    schedule = NoiseSchedule(spec)
    for step, lam in zip(plan.steps, lams):
        assert schedule.lam(step.time) == pytest.approx(lam, abs=1e-9)


ROUNDING = 5e-11  # share by which outputs are off in a second run, larger than the rounding of the coefficients


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(DETERMINISTIC),
    inner=st.lists(st.floats(5, 995), max_size=8, unique_by=lambda t: round(t, 1)),
    first=st.sampled_from([1000.0, 999.0]),
    last=st.sampled_from([0.0, 1.0]),
)
@example(name="dpm_singlestep_3", inner=[6.0, 5.0], first=999.0, last=1.0)
@example(name="dpm_singlestep_3(midpoint=False)", inner=[6.0, 5.0], first=999.0, last=1.0)
def test_any_grid_that_loses_noise_makes_a_plan_that_is_exact_for_one_point(name, inner, first, last):
    """From pure noise or near it, to the clean end or near it."""
    schedule, point, network = NoiseSchedule(FLOW), 0.7, one_point("flow")
    times = [schedule.time(t) for t in (first, *sorted(inner, reverse=True), last)]
    plan = compile_solver(solver(name), times, FLOW, "flow")
    z = (STARTS - times[0].alpha * point) / times[0].sigma  # the noise that a start of that value has
    exact = times[-1].alpha * point + times[-1].sigma * z
    end = sample(plan, network, lambda k: STARTS / times[0].sigma, np.float64)
    # Weights of predicted noise grow with exp(h) for a step h in lambda. From time 999 to 6 a singlestep solver
    # multiplies the rounding of its coefficients, 3e-12, by 1e5 at each evaluation.
    off = sample(
        plan, lambda *call: [(1 + ROUNDING) * o for o in network(*call)], lambda k: STARTS / times[0].sigma, np.float64
    )
    assert end == pytest.approx(exact, abs=1e-9 + float(np.abs(off - end).max()))
