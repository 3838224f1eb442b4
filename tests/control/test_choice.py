"""Which plan is taken, by what was measured."""

from fewstep.control.choice import PATIENCE, PlanChoice


def test_a_plan_that_was_not_measured_is_hoped_for_and_its_first_call_is_not_counted() -> None:
    choice = PlanChoice(2, deadline=0.010)
    assert choice.choose() == 0
    choice.measured(0, 5.0)  # it compiles
    assert choice.choose() == 0
    choice.measured(0, 0.011)
    assert choice.choose() == 1


def test_what_warming_up_measured_is_believed_and_comes_back_after_a_while() -> None:
    choice = PlanChoice(2, deadline=0.010, expected=0.02)
    choice.begin(0, [0.008] * 20)
    choice.begin(1, [0.004] * 20)
    assert choice.choose() == 0 and choice.seconds(0) == 0.008
    choice.measured(0, 0.030)  # all of it counts now
    assert [choice.choose() for _ in range(PATIENCE)] == [1] * PATIENCE
    assert choice.choose() == 0


def test_one_slow_call_of_warming_up_leaves_a_plan_out_for_a_while_alone() -> None:
    choice = PlanChoice(2, deadline=0.010)
    choice.begin(0, [0.008] * 19 + [0.011])
    choice.begin(1, [0.004] * 20)
    chosen = []
    for _ in range(1000):
        chosen.append(choice.choose())
        choice.measured(chosen[-1], (0.008, 0.004)[chosen[-1]])
    assert chosen == [1] * PATIENCE + [0] * (1000 - PATIENCE)


def test_a_plan_that_is_usually_too_slow_is_not_tried_again() -> None:
    choice = PlanChoice(2, deadline=0.010)
    choice.begin(0, [0.008] * 9 + [0.011] * 11)
    choice.begin(1, [0.004] * 20)
    assert {choice.choose() for _ in range(3 * PATIENCE)} == {1}


def test_a_plan_that_fails_is_left_out_for_a_while_and_the_cheapest_is_kept() -> None:
    choice = PlanChoice(2, deadline=0.010, expected=0.001)
    choice.failed(0)
    choice.failed(1)
    assert [choice.choose() for _ in range(PATIENCE)] == [1] * PATIENCE
    assert choice.seconds(1) == 0.001
    assert choice.choose() == 0


def test_what_is_expected_is_the_delay_until_it_is_measured() -> None:
    choice = PlanChoice(1, deadline=0.010, expected=0.05)
    assert choice.choose() == 0 and choice.seconds(0) == 0.05
