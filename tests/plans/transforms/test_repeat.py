import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.noise import normal
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.transforms import repeat_plan, tail
from fewstep.runtime.bundle.manifest import Carried
from fewstep.runtime.sampling.execute import execute, finish
from fewstep.runtime.sampling.slots import CarryingNetwork, first_slots
from tests.refusals import refuses

FLOW = ScheduleSpec("flow")


def recurrent(index, step, u, fed):
    past = np.float32(0.5) * fed["past"] + u
    return [np.tanh(u + past)], {"past": past}


@pytest.mark.parametrize("name", ["ddim:3", "dpmpp_2m:3", "flow_ancestral:3"])
@pytest.mark.parametrize("bank", ["step", "sample"])
def test_a_chain_is_its_runs_one_after_the_other(name: str, bank: str) -> None:
    plan = compile_plan(name, DenoiserFacts(FLOW, "flow", carried=(Carried("past", (4,), bank),)))
    read = [*plan.start_draws, *(draw for step in plan.steps for draw in step.draws)]
    slots = first = first_slots(plan, lambda name, rows: np.zeros((rows, 4), np.float32), 1)
    for run in range(3):
        states = execute(
            plan,
            CarryingNetwork(recurrent, slots),
            lambda number, run=run: normal(1, number + run * (1 + max(read)), (1, 4)),
        )
        *_, last = states
        slots = last.slots
    chain = repeat_plan(plan, 3)
    assert (chain.name, len(chain.steps)) == (f"{plan.name}, 3 runs", 3 * len(plan.steps))
    *_, end = execute(chain, CarryingNetwork(recurrent, first), lambda number: normal(1, number, (1, 4)))
    np.testing.assert_array_equal(finish(chain, [end]), finish(plan, [last]))
    np.testing.assert_array_equal(end.slots.banks["past"][0].value, slots.banks["past"][0].value)


def test_a_chain_begins_with_noise() -> None:
    plan = tail(compile_plan("ddim:3", DenoiserFacts(FLOW, "flow")), 1)
    with refuses("row0", "starts from noise"):
        repeat_plan(plan, 2)
