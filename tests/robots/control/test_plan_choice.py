"""The choice of a plan by measured times."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fewstep.plans.any_plan import PlanLike
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import SchedulerReference
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Clip, Shaping
from fewstep.robots.control.plan_choice import PATIENCE, PlanChoice, compile_plans
from fewstep.runtime import Sampler, load
from tests.refusals import refuses
from tests.robots.control.tiny_policy import ramp, tiny_policy
from tests.runtime.sampling.test_fitted_plans import give


@dataclass(frozen=True)
class WithScheduler:
    """A sampler whose scheduler's plan clips to [-1, 1], or does not clip."""

    sampler: Sampler
    clips: bool = True

    def compile(self, plan: PlanLike, *, shaping: Shaping | None = None) -> Plan:
        if isinstance(plan, SchedulerReference):
            assert shaping is None  # the sampler refuses one
            plan, shaping = "ddim:6", Clip(-1.0, 1.0) if self.clips else None
        return self.sampler.compile(plan, shaping=shaping)


def test_a_jump_of_the_clock_in_a_warm_up_is_left_out() -> None:
    choice = PlanChoice(2, deadline=0.5)
    choice.record_warm_up(0, [0.3, -4.0, float("inf"), 0.2])
    assert (choice.seconds(0), choice.choose()) == (0.3, 0)
    choice.record_warm_up(0, [float("inf"), -4.0])  # none is left: the plan is skipped, at the time that is expected
    assert (choice.seconds(0), choice.choose()) == (0.0, 1)


def test_a_plan_that_comes_back_has_the_median_of_sound_times() -> None:
    choice = PlanChoice(2, deadline=0.5)
    choice.record_warm_up(0, [0.3, -4.0, -4.0, 0.2])
    choice.record_call(0, 0.7)
    assert [choice.choose() for _ in range(PATIENCE)] == [1] * PATIENCE
    assert (choice.choose(), choice.seconds(0)) == (0, 0.25)
    choice.record_warm_up(0, [-4.0])
    for _ in range(PATIENCE + 1):
        choice.choose()
    assert choice.seconds(0) == 0.0  # what is expected of a plan without calls


def test_a_plan_of_the_scheduler_keeps_its_own_clipping(tiny_bundle: Path) -> None:
    sampler: Any = WithScheduler(tiny_policy(tiny_bundle, ramp))
    for clip in (Clip(-1.0, 1.0), Clip(-1, 1)):
        made = compile_plans(sampler, ("scheduler:6", "ddim:2"), clip)
        assert [len(plan.steps) for plan in made] == [6, 2]
        assert all(plan.steps[0].shaping == Clip(-1.0, 1.0) for plan in made)
    with refuses(("'scheduler:6'", "Clip(low=-1.0, high=1.0)"), "leave shaping out"):
        compile_plans(sampler, ("scheduler:6",), Clip(-2.0, 2.0))
    with pytest.raises(UserError, match="'scheduler:6' has no shaping, not Clip"):
        compile_plans(WithScheduler(sampler.sampler, clips=False), ("scheduler:6",), Clip(-1.0, 1.0))  # type: ignore[arg-type]


def test_a_fitted_plan_is_one_of_the_plans_and_takes_no_shaping(tiny_bundle: Path) -> None:
    plan = give(tiny_bundle, guidance=None)
    with load(tiny_bundle) as sampler:
        assert compile_plans(sampler, ("fitted:3", "ddim:2"), None)[0] == plan
        with pytest.raises(UserError, match="run dpmpp_2m:3, which takes these settings"):
            compile_plans(sampler, ("fitted:3",), Clip(-1.0, 1.0))


def test_a_plan_that_was_not_measured_is_hoped_for_and_its_first_call_is_not_counted() -> None:
    choice = PlanChoice(2, deadline=0.010)
    assert choice.choose() == 0
    choice.record_call(0, 5.0)  # it compiles
    assert choice.choose() == 0
    choice.record_call(0, 0.011)
    assert choice.choose() == 1


def test_the_first_plan_that_keeps_the_deadline_is_chosen_or_the_cheapest() -> None:
    for seconds, chosen in (((12, 6, 3), 1), ((8, 6, 3), 0), ((11, 11, 25), 2)):
        choice = PlanChoice(3, deadline=0.010)
        for place, each in enumerate(seconds):
            choice.record_warm_up(place, [each / 1000])
        assert choice.choose() == chosen


def test_a_window_slides() -> None:
    choice = PlanChoice(1, deadline=0.010)
    choice.record_warm_up(0, [0.5] * 200)
    for _ in range(200):
        choice.record_call(0, 0.003)
    assert choice.seconds(0) == 0.003


def test_what_warming_up_measured_is_believed_and_comes_back_after_a_while() -> None:
    choice = PlanChoice(2, deadline=0.010, expected=0.02)
    choice.record_warm_up(0, [0.008] * 20)
    choice.record_warm_up(1, [0.004] * 20)
    assert choice.choose() == 0 and choice.seconds(0) == 0.008
    choice.record_call(0, 0.030)  # all of it counts now
    assert [choice.choose() for _ in range(PATIENCE)] == [1] * PATIENCE
    assert choice.choose() == 0


def test_one_slow_call_of_warming_up_leaves_a_plan_out_for_a_while_alone() -> None:
    choice = PlanChoice(2, deadline=0.010)
    choice.record_warm_up(0, [0.008] * 19 + [0.011])
    choice.record_warm_up(1, [0.004] * 20)
    chosen = []
    for _ in range(1000):
        chosen.append(choice.choose())
        choice.record_call(chosen[-1], (0.008, 0.004)[chosen[-1]])
    assert chosen == [1] * PATIENCE + [0] * (1000 - PATIENCE)


def test_a_plan_that_is_usually_too_slow_is_not_tried_again() -> None:
    choice = PlanChoice(2, deadline=0.010)
    choice.record_warm_up(0, [0.008] * 9 + [0.011] * 11)
    choice.record_warm_up(1, [0.004] * 20)
    assert {choice.choose() for _ in range(3 * PATIENCE)} == {1}


def test_a_plan_that_fails_is_left_out_for_a_while_and_the_cheapest_is_kept() -> None:
    choice = PlanChoice(2, deadline=0.010, expected=0.001)
    choice.record_failure(0)
    choice.record_failure(1)
    assert [choice.choose() for _ in range(PATIENCE)] == [1] * PATIENCE
    assert choice.seconds(1) == 0.001
    assert choice.choose() == 0


def test_what_is_expected_is_the_delay_until_it_is_measured() -> None:
    choice = PlanChoice(1, deadline=0.010, expected=0.05)
    assert choice.choose() == 0 and choice.seconds(0) == 0.05
