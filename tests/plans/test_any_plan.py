"""References of callers: a plan of either type, or what refers to one."""

from pathlib import Path

import pytest

from fewstep.plans.any_plan import parse_plan_reference
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import FileReference, parse_plan_text
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec

PLAN = compile_plan("ddim:2", DenoiserFacts(ScheduleSpec("cosine"), "v"))


@pytest.mark.parametrize("plan", [PLAN, *map(parse_plan_text, ("ddim:4", "fitted:4", "scheduler:4", "plan.json"))])
def test_a_reference_refers_to_itself(plan: object) -> None:
    assert parse_plan_reference(plan) is plan  # type: ignore[arg-type]


def test_a_path_of_any_name_is_a_file() -> None:
    assert parse_plan_reference(Path("ddim:4")) == FileReference(Path("ddim:4"))


@pytest.mark.parametrize(
    ("plan", "fix"), [(None, "give SOLVER:STEPS"), (4, "give SOLVER:STEPS"), (["ddim:4"], "call `sample_each`")]
)
def test_a_value_of_another_type_is_refused(plan: object, fix: str) -> None:
    with pytest.raises(UserError, match="is not a plan; " + fix):
        parse_plan_reference(plan)  # type: ignore[arg-type]
