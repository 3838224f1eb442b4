"""Arguments of user-supplied functions have the types of the parameters' annotations."""

from pathlib import Path
from typing import Any

import pytest

from fewstep.plans.names.user_call import resolve_call
from tests.refusals import refuses

CODE = """
def change(module, spec, on: bool, count: int = 1, share: "float | None" = None, layers="all", *rest: float): ...

def texts(module, spec, *layers: str): ...

def unread(module, spec, on: "Missing"): ...
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    return file


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("change:False", (False,)),
        ("change:true,3", (True, 3)),
        ("change:0,2,0.5", (False, 2, 0.5)),
        ("change:1,2,-inf,7,8,9.5", (True, 2, float("-inf"), "7", 8.0, 9.5)),
        ("texts:1,False", ("1", "False")),
        ("unread:False", ("False",)),
    ],
)
def test_arguments_have_the_types_of_annotations(home: Path, text: str, arguments: tuple[Any, ...]) -> None:
    assert resolve_call("change", f"{home}:{text}", 2).arguments == arguments


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("change:no", "'no' where it needs a boolean; give true or false"),
        ("change:1,2.5", "'2.5' where it needs an integer; give an integer"),
        ("change:1,2,much", "'much' where it needs a number; give a number"),
    ],
)
def test_an_argument_of_another_type_is_refused(home: Path, text: str, wrong: str) -> None:
    what, fix = wrong.split("; ")
    with refuses(f"change mine.py:change cannot take {what}", fix):
        resolve_call("change", f"{home}:{text}", 2)
