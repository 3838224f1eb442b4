"""UniPC, row by row."""

import pytest

from fewstep.plans.compile import trace_plan
from fewstep.plans.name import parse_plan_name
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.parity.extract import assert_same_rows, extract, times_of, unroll

diffusers = pytest.importorskip("diffusers")

FORMS = [  # B, predicts x0, final sigma: theirs is NaN for the others with final sigma zero
    ("bh2", True, "zero"),
    ("bh2", True, "sigma_min"),
    ("bh1", True, "sigma_min"),
    ("bh2", False, "sigma_min"),
    ("bh1", False, "sigma_min"),
]


@pytest.mark.parametrize(("kind", "on_x0", "final"), FORMS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_unipc(order, kind, on_x0, final):
    for lower in (True, False) if final == "sigma_min" else (True,):
        scheduler = diffusers.UniPCMultistepScheduler(
            solver_order=order,
            solver_type=kind,
            predict_x0=on_x0,
            final_sigmas_type=final,
            lower_order_final=lower,
        )
        name = f"unipc_{order}(bh1={kind == 'bh1'}, on_noise={not on_x0}, lower_order_final={lower}):1"
        plan = trace_plan(
            "test",
            parse_plan_name(name).solver,
            times_of(scheduler, 9),
            DenoiserFacts(ScheduleSpec("linear"), "epsilon"),
        )
        assert_same_rows(unroll(plan).from_first_input(), extract(scheduler, 9).from_first_input())


def test_steps_that_are_not_corrected():
    scheduler = diffusers.UniPCMultistepScheduler(solver_order=3, disable_corrector=[0, 3])
    solver = parse_plan_name("unipc_3(uncorrected=[0, 3]):1").solver
    plan = trace_plan("test", solver, times_of(scheduler, 9), DenoiserFacts(ScheduleSpec("linear"), "epsilon"))
    assert_same_rows(unroll(plan).from_first_input(), extract(scheduler, 9).from_first_input())
