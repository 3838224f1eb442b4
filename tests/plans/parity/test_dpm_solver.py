"""DPM-Solver and DPM-Solver++, multistep and singlestep, row by row."""

import pytest

from fewstep.plans.compile import trace_plan
from fewstep.plans.name import parse_plan_name
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.parity.extract import assert_same_rows, assert_same_trajectory, extract, times_of, unroll

diffusers = pytest.importorskip("diffusers")

LINEAR = DenoiserFacts(ScheduleSpec("linear"), "epsilon")
MULTISTEP = {
    "dpmsolver++": {2: "dpmpp_2m", 3: "dpmpp_3m"},
    "dpmsolver": {2: "dpm_2m", 3: "dpm_3m"},
    "sde-dpmsolver++": {2: "dpmpp_2m_sde", 3: "dpmpp_3m_sde"},
    "sde-dpmsolver": {1: "dpm_1_sde", 2: "dpm_2m_sde"},
}
SINGLESTEP = {
    "dpmsolver++": {2: "dpmpp_singlestep_2", 3: "dpmpp_singlestep_3"},
    "dpmsolver": {2: "dpm_singlestep_2", 3: "dpm_singlestep_3"},
    "sde-dpmsolver++": {2: "dpmpp_singlestep_2", 3: "dpmpp_singlestep_3"},
}
ON_NOISE = ("dpmsolver", "sde-dpmsolver")  # NaN there where the grid ends clean


def plan_of(name, scheduler, steps):
    return trace_plan("test", parse_plan_name(f"{name}:1").solver, times_of(scheduler, steps), LINEAR)


def assert_same(name, scheduler, steps):
    # the start of ours has the schedule's sigma for deviation, theirs 1
    plan = plan_of(name, scheduler, steps)
    assert_same_rows(unroll(plan).from_first_input(), extract(scheduler, steps).from_first_input())


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("kind", ["midpoint", "heun"])
@pytest.mark.parametrize(
    ("algorithm", "order", "name"),
    [(algorithm, order, name) for algorithm, names in MULTISTEP.items() for order, name in names.items()],
)
def test_multistep(algorithm, order, name, kind, lower, final):
    if final == "zero" and algorithm in ON_NOISE:
        final = "sigma_min"
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type=algorithm,
        solver_order=order,
        solver_type=kind,
        lower_order_final=lower,
        final_sigmas_type=final,
    )
    given = f"midpoint={kind == 'midpoint'}, lower_order_final={lower}" if order > 1 else ""
    sign = ", diffusers_sign=True" if name == "dpmpp_3m_sde" else ""
    assert_same(f"{name}({given}{sign})" if given else name, scheduler, 9)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("kind", ["midpoint", "heun"])
@pytest.mark.parametrize(
    ("algorithm", "order", "name"),
    [(algorithm, order, name) for algorithm, names in SINGLESTEP.items() for order, name in names.items()],
)
def test_singlestep(algorithm, order, name, kind, lower, final):
    """7, 8 and 9 evaluations: each remainder of blocks of two and of three."""
    if final == "zero" and algorithm in ON_NOISE:
        final = "sigma_min"
    options = ", eta=1" if algorithm == "sde-dpmsolver++" else ""
    if options and order == 3:
        options += ", diffusers_sign=True"
    for steps in (7, 8, 9):
        scheduler = diffusers.DPMSolverSinglestepScheduler(
            algorithm_type=algorithm,
            solver_order=order,
            solver_type=kind,
            lower_order_final=lower,
            final_sigmas_type=final,
        )
        given = f"midpoint={kind == 'midpoint'}, lower_order_final={lower}{options}"
        assert_same(f"{name}({given})", scheduler, steps)


def test_whole_trajectories():
    """From the same first input: the trailing grid's first sigma is 1 in float32 to 2e-5."""
    scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing")
    assert_same_trajectory(plan_of("dpmpp_2m", scheduler, 12), scheduler, 12)
