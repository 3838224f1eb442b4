"""Wrong arguments of transforms and of a sampler's networks are one line with a fix."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fewstep.literature.time_travel import time_travel
from fewstep.plans.arguments import check_compiled, whole
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.transforms import own_noise, tail

PLAN = compile_plan("ddim:4", DenoiserFacts(ScheduleSpec("cosine"), "v"))


def test_a_whole_number_is_of_any_integer_type() -> None:
    made = whole("steps", np.int64(3), 1)
    assert made == 3 and type(made) is int
    assert tail(PLAN, np.int8(1)) == tail(PLAN, 1)


@pytest.mark.parametrize("value", [0, 5, 2.0, "2", None, [2]])
def test_what_is_no_whole_number_in_the_range_is_told(value: Any) -> None:
    with pytest.raises(UserError) as caught:
        whole("steps", value, 1, 4)
    assert str(caught.value) == f"steps {value!r}; give a whole number from 1 to 4"


@pytest.mark.parametrize("transform", [own_noise, lambda plan: tail(plan, 1), lambda plan: time_travel(plan, 2)])
def test_a_name_where_a_compiled_plan_is_needed_is_told(transform: Callable[[Any], Any]) -> None:
    with pytest.raises(UserError, match=r"plan 'ddim:4' is not compiled; give sampler.compile\('ddim:4'\)"):
        transform("ddim:4")


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (lambda: tail(PLAN, 1.0), "plan 'ddim:4' has no step 1.0; give a whole number from 0 to 3"),
        (lambda: time_travel(PLAN, 2.5), "repeats 2.5; give a whole number from 1 up"),
        (lambda: time_travel(PLAN, 2, "1"), "jump '1'; give a whole number from 1 up"),
    ],
)
def test_counts_of_a_transform_are_whole_numbers(transform: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        transform()
    assert str(caught.value) == said


@pytest.mark.parametrize("plan", [None, 3, ["ddim:4"], Plan])
def test_what_is_no_plan_at_all_is_one_line(plan: Any) -> None:
    with pytest.raises(UserError, match="^plan .* is not compiled; give sampler.compile"):
        check_compiled(plan)
