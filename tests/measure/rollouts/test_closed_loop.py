"""Runs that share their beginning, on networks that are functions."""

from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import pytest

from fewstep.calibration.precision import sensitivity
from fewstep.measure.rollouts.closed_loop import Course
from fewstep.plans.compile import compile_plan
from fewstep.plans.plan import Plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.execute import execute

REAL = sensitivity.slowdown  # the tests of this folder fake it
X = np.random.default_rng(0).standard_normal((2, 1, 4)).astype(np.float32)
Y = np.random.default_rng(1).standard_normal((2, 1, 4)).astype(np.float32)


def network(gain: float) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda feeds: {"v": np.tanh(np.float32(gain) * feeds["x"])}


def course_of(plan: Plan) -> Course:
    given = dict.fromkeys(plan.given, Y)
    exact = network(1.0)
    states = execute(plan, lambda i, step, u: [exact({"x": u})["v"]], lambda draw: X, given=given)
    return Course(plan, lambda draw: X, ({},) * len(plan.steps), ("x", "v"), given, tuple(states))


def in_groups(plan: Plan, groups: list[int]) -> Plan:
    steps = tuple(msgspec.structs.replace(s, group=g) for s, g in zip(plan.steps, groups, strict=True))
    return msgspec.structs.replace(plan, steps=steps)


@pytest.mark.parametrize("groups", [[0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2], [2, 1, 0, 0, 1, 2]])
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_what_a_run_shares_with_another_is_taken_from_it(groups: list[int], changed: int) -> None:
    """Also where the plan comes back to an earlier group, as those do that add noise on the way."""
    course = course_of(in_groups(compile_plan("dpmpp_2m:6", DenoiserFacts(ScheduleSpec("cosine"), "v")), groups))
    assert course.shares == pytest.approx(np.full(3, 1 / 3))
    networks = [network(0.9)] * 3
    along = course.run(networks)
    networks[changed] = network(0.8)
    whole, shared = course.run(networks), course.run(networks, along, changed)
    np.testing.assert_array_equal(shared[-1].after[0], whole[-1].after[0])
    assert [state.index for state in shared] == list(range(6))
    assert not np.array_equal(whole[-1].after[0], along[-1].after[0])
    ahead = groups.index(changed) if all(g < changed for g in groups[: groups.index(changed)]) else 0
    assert all(ours is theirs for ours, theirs in zip(shared[:ahead], along[:ahead], strict=True))


def test_a_plan_that_restores_starts_from_what_it_is_given() -> None:
    course = course_of(compile_plan("ddim:4", DenoiserFacts(ScheduleSpec("cosine"), "v", towards="y")))
    states = course.run([network(1.0)])
    np.testing.assert_array_equal(states[0].u, course.reference[0].u)
    assert course.quality(states) == pytest.approx([200.0, 200.0])  # the ceiling: equal


def test_the_time_of_another_network_is_the_median_of_rounds_against_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that the networks move on: the load of one round hits one ratio."""
    course = course_of(compile_plan("ddim:4", DenoiserFacts(ScheduleSpec("cosine"), "v")))
    now = 0.0
    calls: list[str] = []

    def taking(name: str, seconds: float) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
        def called(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            nonlocal now
            calls.append(name)
            is_loaded = len(calls) in (1, 2, 5)  # the first calls, which allocate, and one of a round
            now += seconds * (100 if is_loaded else 1)
            return network(1.0)(feeds)

        return called

    monkeypatch.setattr(sensitivity, "perf_counter", lambda: now)
    assert REAL(course, taking("int8", 2.0), taking("other", 3.0), 5) == pytest.approx(1.5)
    assert calls.count("int8") == calls.count("other") == 6
