"""What a fit asks for twice is made once, with the same bits."""

from dataclasses import replace

import numpy as np

from fewstep.fitting.blocks import sample
from fewstep.fitting.free import free_numbers
from fewstep.fitting.jacobian import norms
from fewstep.fitting.memory import ArrayMemory, rollout_key
from fewstep.fitting.recurrence import plan_of, recurrence_of
from fewstep.fitting.rollouts import Rollouts
from fewstep.plans.compile import compile_plan
from tests.fitting.analytic import Analytic, blocks, facts, mixture, taught

PARTS = blocks(range(16))


def opened():
    sampler = Analytic(facts("cosine", "v"), mixture)
    numbers = recurrence_of(compile_plan("dpmpp_2m:3", sampler.facts, 1.5), 3)
    return sampler, Rollouts(sampler, sampler), numbers


def with_larger_rows(numbers, share=0.01):
    return replace(numbers, rows=(1 + share) * numbers.rows)


def test_a_plan_is_rolled_out_once():
    sampler, rolled, numbers = opened()
    first = np.concatenate(list(rolled.samples(plan_of(numbers), PARTS)))
    assert sampler.calls == [0, 1, 2, 0, 1, 2]
    again = np.concatenate(list(rolled.samples(plan_of(numbers, "another name"), PARTS)))
    assert len(sampler.calls) == 6
    np.testing.assert_array_equal(first, again)
    list(rolled.samples(plan_of(numbers), PARTS, of_teacher=True))  # nothing of a teacher is kept
    assert len(sampler.calls) == 12


def test_rows_alone_leave_the_first_evaluation_as_it_is():
    sampler, rolled, numbers = opened()
    list(rolled.samples(plan_of(numbers), PARTS))
    sampler.calls.clear()
    other = plan_of(with_larger_rows(numbers))
    made = np.concatenate(list(rolled.samples(other, PARTS)))
    assert sampler.calls == [1, 2, 1, 2]
    np.testing.assert_array_equal(made, np.concatenate([sample(sampler, other, part) for part in PARTS]))


def test_another_told_time_another_start_or_another_block_is_evaluated():
    sampler, rolled, numbers = opened()
    list(rolled.samples(plan_of(numbers), PARTS[:1]))
    sampler.calls.clear()
    told, weaker = numbers.times.copy(), 0.9 * numbers.start
    told[0] -= 1
    for other, parts in (
        (replace(numbers, times=told), PARTS[:1]),
        (replace(numbers, start=weaker), PARTS[:1]),
        (numbers, PARTS[1:]),
    ):
        (made,) = rolled.samples(plan_of(other), parts)
        assert sampler.calls == [0, 1, 2]
        np.testing.assert_array_equal(made, sample(sampler, plan_of(other), parts[0]))
        sampler.calls.clear()


def test_columns_begin_at_the_first_evaluation_that_is_known():
    sampler, rolled, numbers = opened()
    parts = taught(sampler, plan_of(numbers), PARTS[:1])
    free = free_numbers(numbers, norms(sampler, numbers, parts), ("rows",))
    sampler.calls.clear()
    (fresh,) = rolled.columns(numbers, free, parts)
    count = sampler.calls.count(0)
    sampler.calls.clear()
    (again,) = rolled.columns(numbers, free, parts)
    assert (count, sampler.calls.count(0)) == (1, 0)
    np.testing.assert_array_equal(fresh.columns, again.columns)


def test_conditions_are_part_of_what_samples_follow_from():
    _, _, numbers = opened()
    here, there = (replace(PARTS[0], conditions={"class": np.full(8, label)}) for label in (1, 2))
    keys = {rollout_key(plan_of(numbers), block) for block in (here, there, PARTS[0], PARTS[1])}
    assert len(keys) == 4


def test_the_arrays_that_were_asked_for_the_longest_ago_give_way():
    kept, kilobyte = ArrayMemory(most=3000), np.zeros(1000, np.uint8)
    for name in (b"a", b"b", b"c"):
        kept.put(name, [kilobyte])
    assert kept.get(b"a") is not None
    kept.put(b"d", [kilobyte])
    assert [kept.get(name) is None for name in (b"a", b"b", b"c", b"d")] == [False, True, False, False]
    kept.put(b"e", [np.zeros(4000, np.uint8)])  # larger than all of the room
    assert kept.get(b"e") is None and kept.get(b"d") is not None
