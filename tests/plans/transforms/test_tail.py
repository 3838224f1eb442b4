"""A run that resumes from its own rows ends bitwise the same, for every solver and at every step."""

from functools import cache

import msgspec
import numpy as np
import pytest

from fewstep.literature.interpolant import MADE_FOR as INTERPOLATING
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.guidance import Cfg, CfgPlusPlus, Residual
from fewstep.plans.names.plan_name import SOLVERS
from fewstep.plans.noise import normal
from fewstep.plans.plan import Plan, locate_step
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.transforms import tail, tail_inputs
from fewstep.runtime.sampling.execute import Hold, begin, build_evaluation, combine, execute, finish, update

SHAPE = (2, 3)
Y, IMAGE = (normal(99, draw, SHAPE) for draw in range(2))
COSINE = ScheduleSpec("cosine")
MADE_FOR = [
    DenoiserFacts(COSINE, "v", guided=True),
    DenoiserFacts(ScheduleSpec("flow"), "flow", guided=True),
    DenoiserFacts(ScheduleSpec("edm"), "edm", guided=True),
    DenoiserFacts(ScheduleSpec("residual-shift"), "sample", guided=True, towards="y"),
    DenoiserFacts(ScheduleSpec("ou"), "score", guided=True, towards="y"),
    DenoiserFacts(ScheduleSpec("rddm"), "residual", guided=True, heads=2, towards="y"),
    INTERPOLATING,
]


def draws(number: int) -> np.ndarray:
    return normal(7, number, SHAPE)


def network(index, step, u):
    return [np.tanh(u + branch / 3) * (1 + head) + np.float32(step.time % 7) / 10
            for branch in range(len(step.branches)) for head in range(step.heads)]  # fmt: skip


@cache
def compile_first(name: str, guidance=None) -> Plan:
    """Return the solver's plan on the first denoiser that it supports."""
    for facts in MADE_FOR:
        try:
            return compile_plan(f"{name}:4", facts, guidance)
        except UserError:
            continue
    raise AssertionError(f"{name} is for no denoiser here")


def ends_alike(plan: Plan, hold: Hold | None = None) -> int:
    """Assert that the samples and rows of all tails are those of the whole run, and return the number of tails."""
    given = {name: Y if name == "y" else IMAGE for name in plan.given}
    states = list(execute(plan, network, draws, np.float32, given, hold))
    whole = finish(plan, states, hold=hold)
    begun = begin(plan, draws, np.float32, given)
    for k, rows in enumerate([begun, *(state.after for state in states[:-1])]):
        rest = tail(plan, k)
        # An evaluation is numbered from the tail's first step; this network does not look at it.
        resumed = list(execute(rest, network, draws, np.float32, tail_inputs(rows), hold))
        np.testing.assert_array_equal(finish(rest, resumed, hold=hold), whole)
        for row, expected in zip(resumed[-1].after, states[-1].after, strict=True):
            np.testing.assert_array_equal(row, expected)
    return len(states)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_every_solver_is_written_and_resumes_at_every_step(name: str) -> None:
    """Coefficients that a solver computes with numpy are ordinary numbers of a plan."""
    plan = compile_first(name)
    assert decode(encode(plan)) == plan and ends_alike(plan) >= 3


@pytest.mark.parametrize("guidance", [Cfg(2.0), CfgPlusPlus(0.6), Residual(1.5, kind="onetime")], ids=str)
@pytest.mark.parametrize("name", ["ddim", "dpmpp_3m_sde", "heun", "unipc_3"])
def test_guidance_that_remembers_resumes(name: str, guidance) -> None:
    assert ends_alike(compile_first(name, guidance)) >= 4


@pytest.mark.parametrize("fresh", [False, True])
def test_a_hold_resumes_with_the_same_noise(fresh: bool) -> None:
    plan = compile_plan("ddpm:5", MADE_FOR[0], shaping=Clip(-1, 1))
    mask = np.array([[1, 0, 0.5], [0, 1, 0]], np.float32)
    assert ends_alike(plan, Hold(IMAGE, mask, fresh=fresh)) == 5


def test_a_tail_is_a_plan_like_any_other() -> None:
    rest = tail(compile_first("dpmpp_2m"), 2)
    assert rest.given == ("row0", "row1") and len(rest.steps) == 2 and "from step 2" in rest.name
    assert decode(encode(rest)) == rest
    assert tail(rest, 1).steps == tail(compile_first("dpmpp_2m"), 3).steps
    for k in (-1, 4):
        with pytest.raises(UserError, match=f"has no step {k}"):
            tail(compile_first("dpmpp_2m"), k)


def test_a_tail_of_a_tail_counts_its_steps_in_the_whole_plan() -> None:
    rest = tail(tail(compile_first("dpmpp_2m"), 1), 2)
    assert (rest.tail_of, rest.first_step) == (compile_first("dpmpp_2m").name, 3)


@pytest.mark.parametrize("name", ["my plan", "my plan from step 2", "a from step 1 from step 3"])
def test_the_first_step_is_not_part_of_the_name(name: str) -> None:
    plan = msgspec.structs.replace(compile_first("dpmpp_2m"), name=name)
    assert locate_step(decode(encode(plan)), 1) == (name, 1)
    assert locate_step(decode(encode(tail(plan, 2))), 1) == (name, 3)
    assert locate_step(tail(plan, 0)) == (name, 0)


@pytest.mark.parametrize(("cuts", "first"), [((0,), 0), ((2,), 2), ((2, 1), 3)])
def test_a_tail_of_an_older_file_opens_as_it_was_meant(cuts: tuple[int, ...], first: int) -> None:
    """Older files store the first step only in the name."""
    rest = compile_first("dpmpp_2m")
    for cut in cuts:
        rest = tail(rest, cut)
    raw = {name: value for name, value in msgspec.json.decode(encode(rest)).items()
           if name not in ("tail_of", "first_step")}  # fmt: skip
    assert len(raw) < len(msgspec.json.decode(encode(rest)))
    assert decode(msgspec.json.encode(raw)) == rest and rest.first_step == first


def test_the_file_of_a_whole_plan_has_no_field_of_a_tail() -> None:
    assert not {"tail_of", "first_step"} & msgspec.json.decode(encode(compile_first("dpmpp_2m"))).keys()


def test_from_step_0_a_given_tensor_is_the_start_as_it_is() -> None:
    """Neither scaled nor noised: the network's first input is the tensor itself."""
    plan = tail(compile_plan("ddim:3", MADE_FOR[0]), 0)
    first = next(iter(execute(plan, network, draws, np.float32, {"row0": IMAGE})))
    np.testing.assert_array_equal(first.u, IMAGE)


def test_see_and_update_are_one_step() -> None:
    plan = compile_plan("ddpm:3", MADE_FOR[0], 2.0, Clip(-0.5, 0.5))
    state = begin(plan, draws, np.float32, {})
    for made in execute(plan, network, draws):
        u = combine(made.step.input, state, np.float32)
        evaluation = build_evaluation(plan, made.index, state, u, network(made.index, made.step, u))
        np.testing.assert_array_equal(evaluation.x0, made.x0)
        state = update(plan, evaluation, draws)
        np.testing.assert_array_equal(state[0], made.after[0])
