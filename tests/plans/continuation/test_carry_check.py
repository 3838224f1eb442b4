"""Banks of carried tensors: those of a plan for a denoiser that carries, and the tables that are refused."""

import msgspec
import numpy as np
import pytest

from fewstep.literature.time_travel import time_travel
from fewstep.plans.compile import compile_plan
from fewstep.plans.continuation.carried_banks import add_banks
from fewstep.plans.continuation.carry_check import check_carry
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.guidance import Cfg
from fewstep.plans.plan import Bank, Carry, CarryIn
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.transforms import tail
from fewstep.runtime.bundle.manifest import Carried
from tests.plans.cached_plans import cache_plan
from tests.refusals import refuses

FLOW = ScheduleSpec("flow")
STEP, SAMPLE = Carried("keys", (2,)), Carried("past", (3,), "sample")
FACTS = DenoiserFacts(FLOW, "flow", carried=(STEP, SAMPLE))
PLAIN = compile_plan("ddim:4", DenoiserFacts(FLOW, "flow"), 2.0)


def test_each_step_has_a_slot_and_the_sample_has_one_more_evaluation() -> None:
    plan = compile_plan("ddim:4", FACTS, 2.0)
    assert plan.banks == (Bank("keys", 5, True), Bank("past", 1, True)) and len(plan.steps) == 5
    for index, step in enumerate(plan.steps):
        keys, past = step.carry_in
        assert (np.flatnonzero(keys.row).tolist(), past.row) == ([index], (1.0,))
        assert [(write.bank, write.slot) for write in step.carry] == [(0, index), *[(1, 0)] * (index == 4)]
        assert all(write.row[-1] == 1.0 and sum(write.row) == 1.0 for write in step.carry)
    last = plan.steps[-1]
    assert (last.time, last.input, last.branches) == (0.0, plan.output, ("cond", "uncond"))
    assert last.update == ((1.0, 0.0, 0.0),)
    alone = compile_plan("ddim:4", DenoiserFacts(FLOW, "flow", carried=(STEP,)))
    assert len(alone.steps) == 4 and alone.banks == (Bank("keys", 4, True),)


def test_a_plan_without_banks_is_as_before() -> None:
    assert add_banks(PLAIN, (), FLOW) is PLAIN
    assert b"carry" not in encode(PLAIN) and b"banks" not in encode(PLAIN)
    previous = msgspec.json.encode(msgspec.json.decode(encode(PLAIN)) | {"schema": 2})
    assert decode(previous) == PLAIN


def test_a_plan_with_banks_is_read_as_it_was_written() -> None:
    for plan in (compile_plan("dpmpp_2m:3", FACTS), cache_plan(PLAIN, (False, False, True, True), 1)):
        assert decode(encode(plan)) == plan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"banks": (Bank("keys", 0, True),)}, r"its banks \(name, slots\) are \[\('keys', 0\)\]"),
        ({"banks": (Bank("keys", 4, True), Bank("more", 10**15, True))}, "no step reads or writes one of the banks"),
        ({"banks": ()}, r"steps\[0\] feeds the banks \[0\] of 0"),
        ({"carry_in": (CarryIn(0, (1.0,)),)}, r"steps\[0\].carry_in\[0\].row is not 1 x 4"),
        ({"carry": (Carry(0, 9, (1.0,) * 5),)}, r"steps\[0\] writes \(bank, slot\) \[\(0, 9\)\] of \[4\] slots"),
        ({"carry": (Carry(0, 0, (1.0,)),)}, r"steps\[0\].carry\[0\].row is not 1 x 5"),
        ({"carry": (Carry(0, 0, (0.0,) * 5),)}, "step 0 writes slot 0 of 'keys' from an empty slot"),
        ({"carry_in": (CarryIn(0, (0.0,) * 4),)}, "step 0 reads no slot of 'keys'"),
    ],
)
def test_damaged_banks_are_one_line(changes: dict, message: str) -> None:
    plan = compile_plan("ddim:4", DenoiserFacts(FLOW, "flow", carried=(STEP,)))
    of_plan = {name: value for name, value in changes.items() if name == "banks"}
    first = msgspec.structs.replace(plan.steps[0], **{n: v for n, v in changes.items() if n != "banks"})
    broken = msgspec.structs.replace(plan, steps=(first, *plan.steps[1:]), **of_plan)
    with pytest.raises(UserError, match=f"plan is damaged: {message}"):
        decode(encode(broken))


def test_a_read_of_an_empty_slot_is_refused_at_compile_time() -> None:
    with refuses(("slot 0 of 'features'", "empty")):
        cache_plan(PLAIN, (True, False, False, False), 0)
    plan = cache_plan(PLAIN, (False, True, False, True), 0)
    with refuses("slot 0", "cut it at a step"):
        tail(plan, 1)
    assert len(tail(plan, 2).steps) == 2


def test_a_branch_that_was_not_there_is_refused() -> None:
    guided = compile_plan("ddim:4", DenoiserFacts(FLOW, "flow"), Cfg((2.0, 1.0)))
    assert [len(step.branches) for step in guided.steps] == [2, 1, 1, 1]
    assert cache_plan(guided, (False, True, False, True), 0).banks  # a branch may go
    backwards = msgspec.structs.replace(guided, steps=(guided.steps[1], guided.steps[0]))
    with refuses(("step 1", "'features'", "'uncond'")):
        cache_plan(backwards, (False, True), 0)


def test_a_slot_that_a_run_leaves_with_fewer_branches_is_refused_for_the_next_run() -> None:
    plan = compile_plan("ddim:4", DenoiserFacts(FLOW, "flow", carried=(STEP,)), Cfg((2.0, 1.0)))
    assert check_carry(plan) is plan and [len(step.branches) for step in plan.steps] == [2, 1, 1, 1]
    last = msgspec.structs.replace(plan.steps[3], carry=(Carry(0, 0, (0.0, 0.0, 0.0, 0.0, 1.0)),))
    with refuses("step 0 reads 'keys' in branch 'uncond'"):
        check_carry(msgspec.structs.replace(plan, steps=(*plan.steps[:3], last)))


def test_a_repeated_step_would_read_its_own() -> None:
    with pytest.raises(UserError, match="carries 'keys'"):
        time_travel(compile_plan("ddim:4", FACTS), 2)
