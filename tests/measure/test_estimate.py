"""The time of an evaluation is measured after the step that allocates memory."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from fewstep.measure import estimate
from fewstep.measure.estimate import Estimate, measure_load, seconds_per_evaluation
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler


@pytest.mark.parametrize("plan", ["ddim:1", "ddim:2", "ddim:8"])
def test_an_evaluation_is_timed_at_the_second_call_of_the_network(plan: str, tiny_bundle: Path) -> None:
    calls: list[int] = []
    sampler = replace(load(tiny_bundle), on_call=lambda index, _: calls.append(index))
    assert seconds_per_evaluation(sampler, sampler.compile(plan)) > 0
    assert len(calls) == 2


class Clock:
    """A clock whose time the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(estimate, "perf_counter", lambda: self.now)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_delays_of_other_programs_count_as_often_as_they_happen(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """A call takes 1 ms, and every third one 7 ms: 3 ms on average, whichever comes first."""
    clock, calls = Clock(monkeypatch), count(first)
    monkeypatch.setattr(estimate, "LEAST_REPEATED", 5.0)

    def take_time(index: int, _: object) -> None:
        if index:  # of two steps, the second is timed
            clock.now += 7e-3 if next(calls) % 3 == 0 else 1e-3

    sampler = replace(load(tiny_bundle), on_call=take_time)
    plan = sampler.compile("ddim:2")
    assert seconds_per_evaluation(sampler, plan, count=10**6) == pytest.approx(3e-3, rel=0.05)
    assert seconds_per_evaluation(sampler, plan) in (pytest.approx(1e-3), pytest.approx(7e-3))  # for a short work


def test_a_conditioner_counts_once_for_each_sample(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 8 ms, and each of 4 steps 1 ms: 3 ms for an evaluation."""
    clock = Clock(monkeypatch)

    def take_time(index: int, _: object) -> None:
        clock.now += 1e-3

    sampler = replace(load(tiny_bundle), on_call=take_time)
    begin = Sampler.steps

    def steps(self: Sampler, *given: object, **named: object) -> object:
        clock.now += 8e-3
        return begin(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Sampler, "steps", steps)
    assert seconds_per_evaluation(sampler, sampler.compile("ddim:4")) == pytest.approx(3e-3)


def test_a_load_is_the_wall_time_of_a_busy_loop_over_its_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def use_processor() -> float:
        clock.now += 0.03
        return clock.now / 3

    monkeypatch.setattr(estimate, "thread_time", use_processor)
    assert measure_load(1) == pytest.approx(3, rel=0.2)


def test_a_load_is_that_of_the_slowest_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two cores is idle."""
    loads = iter([1.0, 2.4])
    monkeypatch.setattr(estimate, "usable_threads", lambda: 2)
    monkeypatch.setattr(estimate, "_time_loop", lambda _: next(loads))
    assert measure_load(2) == 2.4


def test_threads_that_delay_each_other_are_no_load_of_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads are asked for on the one core that this process may use: only one loop is timed."""
    loads = iter([1.1])
    monkeypatch.setattr(estimate, "_time_loop", lambda _: next(loads))
    monkeypatch.setattr(estimate, "usable_threads", lambda: 1)
    assert measure_load(4) == 1.1


def test_a_busy_machine_has_two_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "measure_load", lambda: 3.0)
    work = Estimate(8, sampling=80.0, timing=10.0, preparation=10.0)
    assert work.describe_load() == " at the present load, and 40 seconds on an idle machine"
    assert Estimate(8, sampling=10.0).describe_load() == Estimate(8, sampling=0.1, timing=40.0).describe_load() == ""
    monkeypatch.setattr(estimate, "measure_load", lambda: 1.1)
    assert work.describe_load() == ""


def test_a_quick_network_is_timed_in_the_batch_of_its_work(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[int]()

    def time(sampler: object, plan: object, records: object, seeds: range) -> float:
        seen.append(len(seeds))
        return 0.01 if len(seeds) > 1 else 0.03

    monkeypatch.setattr(estimate, "_time_evaluation", time)
    monkeypatch.setattr(estimate, "LEAST_REPEATED", 5.0)
    monkeypatch.setattr(estimate, "TIMED", 0.0)
    sampler = load(tiny_bundle)
    plan = sampler.compile("ddim:2")
    assert seconds_per_evaluation(sampler, plan, count=1000, batch=16) == pytest.approx(0.01)
    assert seconds_per_evaluation(sampler, plan, count=1000, batch=32) == pytest.approx(0.03)  # of more than a second
    assert seconds_per_evaluation(sampler, plan, count=10, batch=16) == pytest.approx(0.03)  # short work
    assert seen == [1, 16, 1, 1]
