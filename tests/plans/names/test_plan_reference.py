"""The meaning of a text where a caller names a plan."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import (
    FileReference,
    FittedReference,
    NamedReference,
    NameParts,
    SchedulerReference,
    TextReference,
    join_plan_name,
    parse_plan_text,
    split_plan_name,
    with_steps,
)

TEXTS: list[tuple[str, TextReference]] = [
    ("ddim:4", NamedReference(NameParts("ddim:4", None, "ddim", "4", None))),
    ("ddim(a=1 ): 4 @ edm", NamedReference(NameParts("ddim(a=1 ): 4 @ edm", None, "ddim(a=1 )", "4", "edm"))),
    ("my.py:f:8@g.py:even", NamedReference(NameParts("my.py:f:8@g.py:even", "my.py", "f", "8", "g.py:even"))),
    ("scheduler", NamedReference(NameParts("scheduler", None, "scheduler", "", None))),
    ("fitted:6", FittedReference(6)),
    ("scheduler:20", SchedulerReference(20)),
    ("a/b.json", FileReference(Path("a/b.json"))),
    ("fitted:6.json", FileReference(Path("fitted:6.json"))),
]


@pytest.mark.parametrize(("text", "reference"), TEXTS)
def test_a_text_has_one_meaning(text: str, reference: TextReference) -> None:
    assert parse_plan_text(text) == reference


@pytest.mark.parametrize("text", [text for text, _ in TEXTS])
def test_a_reference_prints_its_text(text: str) -> None:
    assert str(parse_plan_text(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fitted:", "plan 'fitted:' has no number of evaluations; write fitted:6"),
        ("fitted:x", "plan 'fitted:x' has no number of evaluations; write fitted:6"),
        ("fitted:٣", "has no number of evaluations; write fitted:6"),
        ("fitted:1000000", "plan 'fitted:1000000' has no number of evaluations"),
        ("fitted:6@karras", "plan 'fitted:6@karras' names a grid, but a fitted plan has its own; write fitted:6"),
        ("fitted:0", "plan 'fitted:0' has 0 evaluations; choose 1 to 64"),
        ("fitted:65", "plan 'fitted:65' has 65 evaluations; choose 1 to 64"),
        ("scheduler:", "plan 'scheduler:' has no number of steps; write scheduler:20"),
        ("scheduler:0", "plan 'scheduler:0' has no number of steps; write scheduler:20"),
        ("scheduler:٣", "has no number of steps; write scheduler:20"),
        (
            "scheduler:8@karras",
            "plan 'scheduler:8@karras' names a grid, but a scheduler has its own times; write scheduler:8",
        ),
        ("scheduler:8:eta=1", "has ':eta=1' after its number; write scheduler:8"),
        ("fitted:4+heun", r"has '\+heun' after its number; write fitted:4"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_plan_text(text)


@given(st.text())
def test_any_text_has_parts(text: str) -> None:
    """Names of compiled plans may be any text."""
    assert str(split_plan_name(text)) == text


@given(st.from_regex(r"[a-z_]+(\(a=[0-9]\))?", fullmatch=True), st.integers(0), st.none() | st.just("edm(rho=5)"))
def test_joined_parts_split_again(solver: str, steps: int, grid: str | None) -> None:
    parts = split_plan_name(join_plan_name(solver, steps, grid))
    assert (parts.home, parts.solver, parts.steps, parts.grid) == (None, solver, str(steps), grid)
    assert parts.has_step_count


def test_the_functions_of_a_name_have_no_parameters() -> None:
    parts = split_plan_name("ddim(eta=0.5):4@karras(rho=5)")
    assert (parts.function, parts.grid_function, split_plan_name("ddim:4").grid_function) == ("ddim", "karras", "")


@pytest.mark.parametrize("name", ["scheduler:8", "scheduler:8, 2 runs", "scheduler:8 from step 2"])
def test_the_name_of_a_schedulers_plan_shows_it(name: str) -> None:
    assert split_plan_name(name).is_of_scheduler and not split_plan_name("ddim:8").is_of_scheduler


def test_a_name_gets_another_number_of_steps() -> None:
    assert with_steps("heun:4@karras(rho=5)", 8) == "heun:8@karras(rho=5)"
