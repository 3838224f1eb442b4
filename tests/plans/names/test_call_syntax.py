"""Parameters of user-supplied functions, of each annotation, as a plan's name sets them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.plans.names.plan_name import parse_plan_name
from tests.refusals import refuses

CODE = """
from collections.abc import Sequence
from typing import Any, Literal, Optional

import numpy as np

def mine(trace, times, {parameters}):
    return trace.start()
"""


def bound(folder: Path, parameters: str, given: str) -> tuple[Any, str]:
    """Return the value that a name gives the parameter `share` of a solver with these parameters, and the name."""
    file = folder / "solvers.py"
    file.write_text(CODE.format(parameters=parameters))
    plan = parse_plan_name(f"{file}:mine(share={given}):4")
    return plan.solver.keywords["share"], plan.text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("parameters", "given", "value"),
    [
        ("share: float | None = None", "0.5", 0.5),
        ("share: Optional[float] = 1.0", "2", 2.0),
        ("share: float | None = 1.0", "None", None),
        ("share: int | None = None", "3", 3),
        ("share: bool | float = 0.5", "True", True),
        ("share=True", "False", False),
        ("share=2", "0.5", 0.5),
        ("share=2", "3", 3),
        ("share=None", "0.5", 0.5),
        ("share", "True", True),
        ("share: Any = None", "[1, 2]", (1.0, 2.0)),
        ("share: Literal[1, 2] = 1", "2", 2),
        ("share: tuple[float, float] = (0.0, 1.0)", "[0.5, 1]", (0.5, 1.0)),
        ("share: tuple[int, ...] = ()", "[2, 3]", (2, 3)),
        ("share: list[float] = []", "[2, 3]", [2.0, 3.0]),
        ("share: Sequence[float] = ()", "[2, 3]", (2.0, 3.0)),
        ("share: tuple = ()", "[2, 3]", (2.0, 3.0)),
        ("share=(0.0, 1.0)", "[2, 3]", (2.0, 3.0)),
        ("share: float = 1.0, *rest", "0.5", 0.5),
        ("*rest, share: float = 1.0, **more", "0.5", 0.5),
    ],
)
def test_a_name_sets_a_parameter_of_each_annotation(tmp_path: Path, parameters: str, given: str, value: Any) -> None:
    found, text = bound(tmp_path, parameters, given)
    assert (type(found), found) == (type(value), value)
    assert text == f"solvers.mine(share={given}):4"


@pytest.mark.parametrize("parameters", ["share: np.ndarray = np.zeros(2)", "share=np.zeros(2)"])
def test_a_list_is_an_array_where_an_array_is_annotated(tmp_path: Path, parameters: str) -> None:
    found, _ = bound(tmp_path, parameters, "[2, 3]")
    assert isinstance(found, np.ndarray) and found.tolist() == [2.0, 3.0]


def test_an_array_equal_to_the_default_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "solvers.py"
    file.write_text(CODE.format(parameters="share=np.zeros(2)"))
    assert parse_plan_name(f"{file}:mine(share=[0, 0]):4").text == "solvers.mine:4"


def test_variadic_parameters_need_no_value(tmp_path: Path) -> None:
    file = tmp_path / "solvers.py"
    file.write_text(CODE.format(parameters="*rest, **more"))
    assert parse_plan_name(f"{file}:mine:4").text == "solvers.mine:4"
    with refuses("solver solvers.mine has no parameter 'more'", "leave the parentheses out"):
        parse_plan_name(f"{file}:mine(more=1):4")


@pytest.mark.parametrize(
    ("parameters", "given", "said", "fix"),
    [
        ("share: float | None = None", "True", "(share=...) cannot be True", "give a number or None"),
        ("share=True", "0.5", "cannot be 0.5", "give True or False"),
        ("share: tuple[float, float] = (0.0, 1.0)", "[1, 2, 3]", "cannot be [1, 2, 3]", "give a list of 2 numbers"),
        ("share: tuple[int, ...] = ()", "[0.5]", "cannot be [0.5]", "give a list of integers"),
        ("share: int = 1", "3.0", "cannot be 3.0", "give an integer"),
        ("share: Literal[1, 2] = 1", "3", "cannot be 3", "give 1 or 2"),
        ("share: str = 'a'", "0.5", "cannot be 0.5", "annotate it as float, int, bool or tuple[float, ...]"),
        ("share: float = 1.0, /", "0.5", "takes 'share' by position only", "remove the / from its parameters"),
        ("share: float, scale: dict", "0.5", "needs scale", "annotate it as float, int, bool or tuple[float, ...]"),
        ("share: float, scale: float", "0.5", "needs scale", "write solvers.mine(scale=...)"),
    ],
)
def test_the_fix_for_a_value_names_what_works(tmp_path: Path, parameters: str, given: str, said: str, fix: str) -> None:
    with refuses(said, fix):
        bound(tmp_path, parameters, given)
