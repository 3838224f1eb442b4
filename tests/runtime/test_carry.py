"""Slots of carried tensors: a run with them is bitwise the loop that one would write by hand."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Cfg
from fewstep.plans.noise import normal_batch
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.transforms import tail, tail_inputs
from fewstep.runtime.bundle.manifest import Carried
from fewstep.runtime.kinds import graph_entry
from fewstep.runtime.kinds.graph_entry import NEXT
from fewstep.runtime.sampling.execute import combine, execute, finish
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.slots import CarryingNetwork, Slot, Slots, check_slots, first_slots, refuse_banks
from fewstep.runtime.sampling.step_call import GraphCall, StepCall
from tests.plans.cached_plans import SHALLOW, cache_plan
from tests.refusals import refuses

FLOW = ScheduleSpec("flow")
SHAPE = (2, 3)


def deep(u, time):
    """Return features [B, 4, 3], which the shallow network does not compute."""
    return np.concatenate([np.sin(u * np.float32(1 + time / 1000)), np.cos(u)], axis=1)


def head(u, features, time):
    return np.tanh(u * np.float32(time / 1000) + features[:, :2] * features[:, 2:])


def two_networks(index, step, u, fed):
    x = np.concatenate([u] * len(step.branches))
    features = fed["features"] if step.network == SHALLOW else deep(x, step.time)
    return np.split(head(x, features, step.time), len(step.branches)), {"features": features}


def draws(seeds):
    return lambda number: normal_batch(seeds, number, SHAPE)


def by_branch(mask, order):
    """A network by hand, which holds the features of each branch, or extrapolates them linearly in lambda."""
    written = []

    def network(index, step, u):
        if not mask[index]:
            made = deep(u, step.time)  # of one branch: all see the same x
            written.append((step.lam, dict.fromkeys(step.branches, made)))
        parts = []
        for branch in step.branches:
            (before, older), (last, newest) = (written * 2)[-2:]
            features = newest[branch]
            if mask[index] and order and len(written) > 1 and None not in (before, last, step.lam):
                r = (step.lam - last) / (last - before)
                features = combine((1 + r, -r), [newest[branch], older[branch]], np.float32)
            parts.append(head(u, features, step.time))
        return parts

    return network


def test_a_thousand_schedules_of_masks_run_bit_by_bit_or_are_refused_in_one_line() -> None:
    rng, outcomes = np.random.default_rng(0), Counter[str]()
    guidances = (None, 2.0, Cfg(2.0, interval=(-1.0, 1.5)), Cfg((1.0, 1.0, 2.0)))
    plans = [
        compile_plan(f"{solver}:{steps}", DenoiserFacts(FLOW, "flow"), guidance)
        for solver in ("ddim", "dpmpp_2m", "unipc_2")
        for steps in (2, 4, 9)
        for guidance in guidances
    ]
    for _ in range(1000):
        plain, order = plans[rng.integers(len(plans))], int(rng.integers(2))
        mask = (rng.random(len(plain.steps)) < rng.random()).tolist()
        try:
            plan = cache_plan(plain, mask, order)
        except UserError as error:
            assert "\n" not in str(error) and error.fix
            outcomes[error.what.partition(": ")[2].split()[2]] += 1  # reads or writes
            continue
        carrying = CarryingNetwork(two_networks, first_slots(plan, lambda name, rows: np.zeros(0), 1))
        expected = finish(plain, execute(plain, by_branch(mask, order), draws([3])))
        np.testing.assert_array_equal(finish(plan, execute(plan, carrying, draws([3]))), expected)
        outcomes["shallow" if any(mask) else "plain"] += 1
    assert outcomes.keys() == {"reads", "shallow", "plain"} and min(outcomes.values()) > 50, outcomes


CARRIED = (Carried("keys", (4,)), Carried("past", (2, 3), "sample"))
FACTS = DenoiserFacts(FLOW, "flow", carried=CARRIED)


def zeros(name: str, rows: int):
    shape = next(tensor.shape for tensor in CARRIED if tensor.name == name)
    return np.zeros((rows, *shape), np.float32)


def recurrent(index, step, u, fed):
    """Each output depends on all that was carried."""
    x = np.concatenate([u] * len(step.branches))
    keys = np.float32(0.5) * fed["keys"] + x.reshape(len(x), -1)[:, :4]
    past = np.float32(0.5) * fed["past"] + x
    return np.split(np.tanh(x + keys.mean(1)[:, None, None] + past), len(step.branches)), {"keys": keys, "past": past}


def chunks(plan, seeds, count, slots=None):
    """Return the samples of a number of runs that continue each other, and their last slots."""
    slots, samples = slots or first_slots(plan, zeros, len(seeds)), []
    for number in range(count):
        *_, last = execute(plan, CarryingNetwork(recurrent, slots), draws([seed + 10 * number for seed in seeds]))
        samples.append(finish(plan, [last]))
        slots = last.slots
    return samples, slots


def test_a_call_returns_the_carried_tensors_of_its_slots() -> None:
    def add_one(x: Any, fed: Any, group: int, network: str) -> GraphCall:
        return GraphCall(fed, {NEXT + tensor.name: fed[graph_entry.CARRIED + tensor.name] + 1 for tensor in CARRIED}, x)

    plan = compile_plan("ddim:3", FACTS)
    call = StepCall(add_one, lambda index: {}, first_slots(plan, zeros, 1))
    taken = {tensor.name: zeros(tensor.name, 1) for tensor in CARRIED}
    _, carried = call.call_carrying(0, plan.steps[0], np.zeros((1, 2, 3), np.float32), taken)
    assert {name: float(tensor.min()) for name, tensor in carried.items()} == {"keys": 1.0, "past": 1.0}


def test_a_caller_that_cannot_carry_refuses_a_plan_with_carried_tensors() -> None:
    with refuses("carries 'keys' from run to run", "carry_on"):
        refuse_banks(compile_plan("ddim:3", FACTS), Path("bundle"))


@pytest.mark.parametrize("guidance", [None, 2.0])
def test_runs_carry_on_as_a_loop_by_hand(guidance: float | None) -> None:
    plan = compile_plan("ddim:3", FACTS, guidance)
    branches, steps = (2 if guidance else 1), len(plan.steps)
    keys, past = [zeros("keys", 2 * branches)] * steps, zeros("past", 2 * branches)
    bare = msgspec.structs.replace(plan, banks=())
    for number, made in enumerate(chunks(plan, [1, 2], 4)[0]):

        def by_hand(index, step, u):
            nonlocal past
            outputs, after = recurrent(index, step, u, {"keys": keys[index], "past": past})
            keys[index] = after["keys"]
            past = after["past"] if index == steps - 1 else past
            return outputs

        expected = finish(bare, execute(bare, by_hand, draws([1 + 10 * number, 2 + 10 * number])))
        np.testing.assert_array_equal(made, expected)


def test_a_sample_and_its_slots_do_not_depend_on_their_batch() -> None:
    plan = compile_plan("ddim:3", FACTS, 2.0)
    together, slots = chunks(plan, [1, 2, 3], 3)
    alone, own = chunks(plan, [2], 3)
    np.testing.assert_array_equal(together[2][1:2], alone[2])
    moved = slots.select_samples([2, 1, 1])
    for bank, other in zip(moved.banks.values(), own.banks.values(), strict=True):
        for slot, single in zip(bank, other, strict=True):
            for place in (1, 2):  # a sample taken twice
                np.testing.assert_array_equal(slot.value[place::3], single.value)
    again, _ = chunks(plan, [2], 1, slots.select_samples([1]))
    np.testing.assert_array_equal(again[0], chunks(plan, [2], 1, own)[0][0])


def test_a_sample_that_is_not_there_is_one_line() -> None:
    _, slots = chunks(compile_plan("ddim:3", FACTS, 2.0), [1, 2], 1)
    with refuses("index 3", "from 0"):
        slots.select_samples([0, 3])
    for places in ([0.5], "a", None, 1, [[0]], [10**400]):
        with refuses("sample indexes", "list of whole numbers"):
            slots.select_samples(places)
    assert slots.select_samples(np.array([1])).banks["past"][0].value.shape == (2, 2, 3)


def test_what_another_plan_carried_is_refused() -> None:
    """Of another solver, and of a run that was left at its third step; its tail continues there."""
    plan, seeds = compile_plan("ddim:4", FACTS), [1, 2]
    _, slots = chunks(plan, seeds, 1)
    like = first_slots(plan, zeros, 2)
    assert (
        check_slots(slots, plan, like, 2).next
        == check_slots(slots.select_samples([1, 0]), plan, like, 2).next
        == ("ddim:4", 0)
    )
    with refuses(("of plan 'ddim:4'", "but this is step 0 of 'dpmpp_2m:4'")):
        check_slots(slots, compile_plan("dpmpp_2m:4", FACTS), like, 2)
    third = list(execute(plan, CarryingNetwork(recurrent, slots), draws(seeds)))[2].slots
    with refuses(("carried is for step 3", "'ddim:4'")):
        check_slots(third, plan, like, 2)
    rest = tail(tail(plan, 2), 1)
    assert check_slots(third, rest, like, 2).next == ("ddim:4", 3)
    *_, last = execute(
        rest, CarryingNetwork(recurrent, third), draws(seeds), given=tail_inputs([zeros("past", 2)] * rest.rows)
    )
    assert check_slots(last.slots, plan, like, 2).next == ("ddim:4", 0)


def test_threads_do_not_mix_slots() -> None:
    plan = compile_plan("ddim:3", FACTS, 2.0)
    expected = [chunks(plan, [seed], 5)[0][-1] for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for made, own in zip(pool.map(lambda seed: chunks(plan, [seed], 5)[0][-1], range(8)), expected, strict=True):
            np.testing.assert_array_equal(made, own)


def test_a_tail_goes_on_with_the_slots_of_its_run() -> None:
    plan = compile_plan("dpmpp_2m:4", FACTS)
    _, slots = chunks(plan, [1], 2)
    states = list(execute(plan, CarryingNetwork(recurrent, slots), draws([9])))
    rest = tail(plan, 2)
    resumed = execute(rest, CarryingNetwork(recurrent, states[1].slots), draws([9]), given=tail_inputs(states[1].after))
    *_, last = resumed
    np.testing.assert_array_equal(finish(rest, [last]), finish(plan, states[-1:]))
    np.testing.assert_array_equal(last.slots.banks["keys"][3].value, states[-1].slots.banks["keys"][3].value)


@pytest.mark.parametrize("name", ["my plan from step 2", "from step 1"])
def test_a_plan_of_any_name_goes_on_with_the_slots_of_its_run(name: str) -> None:
    """The name is only a description: a whole plan may have the name of a tail."""
    plan = msgspec.structs.replace(compile_plan("ddim:4", FACTS), name=name)
    expected, _ = chunks(compile_plan("ddim:4", FACTS), [1], 3)
    samples, slots = chunks(plan, [1], 3)
    np.testing.assert_array_equal(samples[-1], expected[-1])
    assert check_slots(slots, plan, first_slots(plan, zeros, 1), 1).next == (name, 0)


def with_past(value):
    return lambda slots: Slots({**slots.banks, "past": (Slot(("cond",), value),)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda slots: 3, "carried is int, not Slots"),
        (lambda slots: Slots({}), "has 4 slots of 'keys', but carried has none"),
        (
            lambda slots: Slots({**slots.banks, "keys": slots.banks["keys"][:2]}),
            "has 4 slots of 'keys', but carried has 2",
        ),
        (lambda slots: Slots(3), "has 4 slots of 'keys', but carried has none"),
        (lambda slots: slots.select_samples([0]), r"carried has 'keys' float32 \[1, 4\], not float32 \[2, 4\]"),
        (with_past(zeros("past", 2).astype(np.float64)), r"'past' float64 \[2, 2, 3\], not float32 \[2, 2, 3\]"),
        (with_past(zeros("past", 2).tolist()), r"carried has 'past' float64 \[2, 2, 3\], not float32"),
        (with_past(np.ma.masked_all((2, 2, 3), np.float32)), "carried 'past' holds masked values"),
        (with_past([[None]]), "carried 'past' holds None"),
        (lambda slots: Slots({**slots.banks, "past": (zeros("past", 2),)}), "carried has .* for 'past', not a Slot"),
        (lambda slots: Slots({**slots.banks, "past": (None,)}), "step 0 reads slot 0 of 'past', which is empty"),
        (
            lambda slots: Slots({**slots.banks, "past": (Slot(("uncond",), zeros("past", 2)),)}),
            "reads 'past' in branch 'cond', which slot 0 does not have",
        ),
    ],
)
def test_slots_of_another_run_are_refused(change, message: str) -> None:
    plan = compile_plan("ddim:3", FACTS)
    _, slots = chunks(plan, [1, 2], 1)
    with pytest.raises(UserError, match=message):
        check_slots(change(slots), plan, first_slots(plan, zeros, 2), 2)


def test_a_plan_with_banks_that_a_denoiser_does_not_have_is_one_line(tiny_bundle: Path) -> None:
    sampler = load(tiny_bundle)
    plan = cache_plan(sampler.compile("ddim:4"), (False, False, True, True), 0)
    with refuses(("features", "carries none")):
        sampler.sample(plan, [0], {"class": [0]})
