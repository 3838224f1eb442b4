"""Policies whose spec contradicts itself: each is one line, before anything is traced."""

import pytest

from fewstep.export import Condition, Policy, ScheduleSpec, Spec
from fewstep.plans.errors import UserError

RHYTHM = {"observations": 3, "first": 0, "actions": 4}


def spec(*shapes: tuple[int, ...], **rhythm: object) -> Spec:
    conditions = tuple(
        Condition(f"seen{number}", f"seen{number}", shape, "float32", typical=(-1.0, 1.0))
        for number, shape in enumerate(shapes)
    )
    policy = Policy(**{**RHYTHM, **rhythm})  # type: ignore[arg-type]
    return Spec("policy", (8, 3), conditions, "sample", ScheduleSpec("cosine", timesteps=100), policy=policy)


@pytest.mark.parametrize("shapes", [[(2, 6)], [(2, 6), (6, 3, 4, 4)], [(2, 6), ()]])
def test_observations_that_no_condition_can_hold_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(UserError, match=r"no condition has 3 observations along its first axis: 'seen0' \[2, 6\]"):
        spec(*shapes)


@pytest.mark.parametrize("shapes", [[(3, 6)], [(3, 6), (2,)], [(18,)], [], [()]])
def test_observations_may_be_stacked_in_one_row_or_in_x(shapes: list[tuple[int, ...]]) -> None:
    assert len(spec(*shapes).conditions) == len(shapes)
    assert len(spec((4, 5), observations=1).conditions) == 1  # one observation need not be stacked


@pytest.mark.parametrize(
    ("discrete", "said"),
    [([2], "Expected `dict`, got `tuple`"), ({2: 1.0}, "Expected `tuple`, got `float`")],
)
def test_discrete_places_are_a_dict_of_values(discrete: object, said: str) -> None:
    with pytest.raises(UserError, match=rf"{said}.*policy\.discrete.*discrete={{PLACE: \(VALUE, VALUE\)}}"):
        spec((3, 6), discrete=discrete)
