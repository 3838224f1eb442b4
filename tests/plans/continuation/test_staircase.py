"""Plans over positions: rolling samples of a Gaussian process, whose exact denoiser is a matrix, keep its
distribution.
"""

import re

import msgspec
import numpy as np
import pytest

from fewstep.plans.any_plan import times_of
from fewstep.plans.compile import compile_plan
from fewstep.plans.continuation.staircase import staircase
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.guidance import Cfg
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec, Stairs
from fewstep.plans.transforms import repeat_plan
from fewstep.runtime.sampling.execute import execute, finish
from fewstep.runtime.sampling.slots import CarryingNetwork, first_slots
from tests.plans.execute_plan import sample

PLACES, MEAN, NEXT = 8, 0.4, 0.9  # NEXT: the correlation of neighbours
FLOW, COSINE = ScheduleSpec("flow"), ScheduleSpec("cosine")
LAW = 0.25 * NEXT ** np.abs(np.subtract.outer(np.arange(PLACES), np.arange(PLACES)))  # of neighbouring positions


def compile_staircase(name, leaves=1, kept=0, schedule=FLOW, **options):
    facts = DenoiserFacts(schedule, "sample", stairs=Stairs(-2, PLACES, leaves, kept))
    return compile_plan(name, facts, **options)


def exact(plan, schedule=FLOW):
    """E[x0 | x] of the process, with a time for each position; x [B, PLACES, 1]."""
    schedule = NoiseSchedule(schedule)

    def network(index, step, u, taken):
        times = np.broadcast_to(times_of(plan, step), PLACES)
        a, s = np.array([(schedule.alpha(t), schedule.sigma(t)) for t in times]).T
        gain = LAW * a @ np.linalg.pinv(a[:, None] * LAW * a + np.diag(s**2))
        return [MEAN + np.einsum("ij,bjc->bic", gain, u - MEAN * a[:, None])], {}

    return network


def run_calls(plan, calls, draws, network=None):
    """Return the samples of a number of runs, each of which continues the previous one, in float64."""
    slots, samples = first_slots(plan, None, 1), []
    for call in range(calls):
        running = CarryingNetwork(network or exact(plan), slots)
        states = list(execute(plan, running, lambda number, call=call: draws(call, number), np.float64))
        samples.append(finish(plan, states, np.float64))
        slots = states[-1].slots
    return np.array(samples)


def law(plan, calls, kept):
    """(mean, covariance) of the positions that a number of runs finish: a run is linear in what it draws."""
    each, leaves = np.arange(PLACES), plan.rolling_bank.rolls.by

    def draws(call, number):
        own = np.zeros((calls * PLACES + 1, PLACES, 1))
        own[call * PLACES + each, each, 0] = 1.0
        return own

    out = np.concatenate([sample[:, kept : kept + leaves, 0].T for sample in run_calls(plan, calls, draws)])
    changes = out[:, :-1] - out[:, -1:]
    return out[:, -1], changes @ changes.T


@pytest.mark.parametrize(("leaves", "kept"), [(1, 1), (2, 2), (4, 4)])
def test_has_the_law_of_a_markov_process_whose_last_positions_are_kept(leaves, kept):
    runs, errors = (PLACES - kept) // leaves, []
    for each in (64 // runs, 128 // runs):
        mean, covariance = law(compile_staircase(f"dpmpp_2m:{runs * each}", leaves, kept), 20 // leaves, kept)
        np.testing.assert_allclose(mean, MEAN, atol=1e-12)
        errors.append(abs(covariance[-PLACES:, -PLACES:] - LAW).max() / 0.25)
    assert errors[1] < 0.004
    assert errors[0] / errors[1] > 2.3  # more than of first order


def test_runs_that_keep_nothing_forget_what_has_left():
    _, covariance = law(compile_staircase("dpmpp_2m:64"), 24, 0)
    np.testing.assert_allclose(np.diag(covariance)[-PLACES:], 0.25, rtol=0.005)
    assert 0.85 < covariance[-1, -2] / 0.25 < 0.88 < NEXT


def by_position(plan):
    """A network that treats each position alone."""

    def network(index, step, u, taken):
        times = np.reshape(times_of(plan, step), (-1, 1))
        return [np.sin((1 + branch) * u + times / 700) for branch in range(len(step.branches))], {}

    return network


def alone(plan, draws):
    """The sample of an ordinary plan on that network."""
    return sample(plan, lambda index, step, u: by_position(plan)(index, step, u, {})[0], draws, np.float64)


ORDINARY = [
    ("ddim:8", FLOW, {}),
    ("dpmpp_2m:16", FLOW, {"shaping": Clip(-0.6, 0.6)}),
    ("heun:8", FLOW, {"guidance": 1.5}),
    ("unipc_3:8", COSINE, {}),
    ("deis_t_2:8", COSINE, {"guidance": 3.0, "shaping": Clip(-1.0, 1.0)}),
]


@pytest.mark.parametrize(("name", "schedule", "options"), ORDINARY)
@pytest.mark.parametrize(("leaves", "kept"), [(2, 0), (2, 4), (4, 0)])
def test_each_position_goes_through_the_steps_of_the_ordinary_plan(name, schedule, options, leaves, kept):
    facts = DenoiserFacts(schedule, "sample")
    ordinary = compile_plan(name, facts, **options)
    if len(ordinary.steps) % ((PLACES - kept) // leaves):
        ordinary = compile_plan("ddim:8", facts, **options)
    plan = staircase(ordinary, Stairs(-2, PLACES, leaves, kept), NoiseSchedule(schedule))
    noise = np.random.default_rng(0).standard_normal((12, 3, PLACES, 1))

    samples = run_calls(plan, 12, lambda call, number: noise[call], by_position(plan))

    for call in range(PLACES // leaves, 12):
        entered = noise[call - (PLACES - kept) // leaves + 1][:, -leaves:]
        whole = alone(ordinary, lambda _, entered=entered: entered)
        np.testing.assert_allclose(samples[call][:, kept : kept + leaves], whole, rtol=0, atol=1e-12)


def test_each_position_has_draws_of_its_own():
    ordinary = compile_plan("ddpm:8", DenoiserFacts(COSINE, "sample"))
    plan, noise = staircase(ordinary, Stairs(-2, PLACES, 2), NoiseSchedule(COSINE)), np.random.default_rng(2)
    drawn = noise.standard_normal((8, 99, 1, PLACES, 1))
    samples = run_calls(plan, 8, lambda call, number: drawn[call, number], by_position(plan))
    numbers = {draw: index for index, step in enumerate(ordinary.steps) for draw in step.draws}

    def of_one(number):
        """What a block drew that entered in run 4 and left in run 7: it moves up by a block in each run."""
        if number not in numbers:
            return drawn[4, number][:, -2:]
        run, within = divmod(numbers[number], 2)
        (own,) = plan.steps[6 + within].draws
        return drawn[4 + run, own][:, 6 - 2 * run : 8 - 2 * run]

    np.testing.assert_allclose(samples[7][:, :2], alone(ordinary, of_one), rtol=0, atol=1e-12)


def test_a_chain_of_runs_is_the_runs():
    plan = compile_staircase("dpmpp_2m:8", leaves=2)
    noise = np.random.default_rng(1).standard_normal((4, 3, PLACES, 1))
    runs = run_calls(plan, 4, lambda call, number: noise[call])[-1]
    chain = repeat_plan(plan, 4)
    first = 1 + max(draw for step in plan.steps for draw in (*step.draws, *plan.start_draws))
    running = CarryingNetwork(exact(chain), first_slots(chain, None, 3))
    states = execute(chain, running, lambda number: noise[number // first], np.float64)
    np.testing.assert_array_equal(finish(chain, states, np.float64), runs)
    assert len(chain.steps) == 8 + 3 * 2


def test_one_block_is_the_ordinary_plan():
    assert compile_staircase("ddim:4", leaves=PLACES) == compile_plan("ddim:4", DenoiserFacts(FLOW, "sample"))


def test_a_file_holds_it():
    plan = compile_staircase("dpmpp_2m:16", leaves=2, kept=4, shaping=Clip(-1.0, 1.0))
    assert decode(encode(plan)) == plan
    for damage in (
        {"rolls": msgspec.structs.replace(plan.banks[0].rolls, steps=99)},
        {"rolls": msgspec.structs.replace(plan.banks[0].rolls, axis=0)},
        {"slots": 1},
    ):
        banks = (msgspec.structs.replace(plan.banks[0], **damage),)
        with pytest.raises(UserError, match="state"):
            decode(encode(msgspec.structs.replace(plan, banks=banks)))
    step = msgspec.structs.replace(plan.steps[0], times=9999)
    with pytest.raises(UserError, match="tensor 9999"):
        decode(encode(msgspec.structs.replace(plan, steps=(step, *plan.steps[1:]))))


@pytest.mark.parametrize(
    ("name", "options", "names"),
    [
        ("ddim:7", {}, "7 steps.*multiple of 8"),
        ("ddim:8", {"strength": 0.5}, "image"),
        ("ddim:8", {"guidance": Cfg(2.0, (0.0, 9.0))}, "branches"),
    ],
)
def test_a_plan_without_such_a_form_is_refused_in_one_line(name, options, names):
    with pytest.raises(UserError) as refused:
        compile_staircase(name, **options)
    assert re.search(names, str(refused.value))
