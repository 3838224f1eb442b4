"""The values that the options of a verb accept from a program."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.generate import options_of
from fewstep.cli.verbs import VERBS
from fewstep.export.export_options import ExportOptions
from fewstep.fitting.options import FitOptions
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import FileReference, parse_plan_text
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.report.options import ReportOptions
from fewstep.runtime.options import Options
from tests.refusals import refuses


@dataclass(frozen=True)
class Some(Options):
    bundle: Path
    plan: str = "ddim:2"
    output: Path | None = None
    target: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1, 8)
    names: tuple[str, ...] | None = None
    rounds: int = 1
    kind: Literal["full", "quick"] = "full"
    workers: int = field(default=0, metadata={"unrecorded": True})


def test_a_text_stands_for_a_path_and_a_path_for_a_text() -> None:
    made = Some("own", plan=Path("plan.json"), output="page.html")  # type: ignore[arg-type]
    assert made == Some(Path("own"), "plan.json", Path("page.html"))
    assert Some(Path("own")).output is None


@pytest.mark.parametrize("path", [Path("plan"), Path("ddim:8"), Path("plan.json")])
def test_a_path_is_a_plan_file_whatever_its_name(path: Path, tmp_path: Path) -> None:
    assert CalibrateOptions(tmp_path, plan=path).plan == FileReference(path)  # type: ignore[arg-type]
    assert CalibrateOptions(tmp_path, plan="ddim:8").plan == parse_plan_text("ddim:8")  # type: ignore[arg-type]


def test_one_value_or_a_list_stands_for_a_tuple() -> None:
    made = Some("own", target="cpu-x86", batches=4, names=["a", "b"])  # type: ignore[arg-type]
    assert (made.target, made.batches, made.names, made.rounds) == (("cpu-x86",), (4,), ("a", "b"), 1)
    assert Some("own").names is None and Some("own", target=("a", "b")).target == ("a", "b")  # type: ignore[arg-type]


def test_an_array_stands_for_a_tuple_and_a_set_does_not() -> None:
    assert Some("own", batches=np.array([2, 3])).batches == (2, 3)  # type: ignore[arg-type]
    assert Some("own", batches=range(1, 3)).batches == (1, 2)  # type: ignore[arg-type]
    assert Some("own", target=np.array(["a", "b"])).target == ("a", "b")  # type: ignore[arg-type]
    with refuses("batches [[2], [3]] is not", "give batches as a whole number"):
        Some("own", batches=np.array([[[2], [3]]]))  # type: ignore[arg-type]
    for wrong in ({2, 3}, {2: 3}, iter([2])):
        with refuses(f"batches {wrong!r:.40} is not a list", "give batches as a list"):
            Some("own", batches=wrong)  # type: ignore[arg-type]


def test_an_integer_of_any_type_is_an_int_and_a_boolean_is_none() -> None:
    made = Some("own", rounds=np.uint8(3), batches=[np.int64(2)])  # type: ignore[arg-type]
    assert (type(made.rounds), made.rounds, made.batches) == (int, 3, (2,))
    for wrong in (True, 2.5, np.True_, None):
        with refuses((f"rounds {wrong!r}", "is not a whole number"), "give rounds as a whole number"):
            Some("own", rounds=wrong)  # type: ignore[arg-type]
    assert Some("own", batches=np.int64(2)).batches == (2,)  # type: ignore[arg-type]
    for one in ([4, True], np.True_):
        with refuses(r"True", "give batches as a whole number"):
            Some("own", batches=one)  # type: ignore[arg-type]
    with refuses("turn_seconds True is not a number"):
        ReportOptions(Path("own"), turn_seconds=True)


def test_a_word_is_one_of_those_that_there_are() -> None:
    assert Some("own", kind="quick").command_line("try") == "fewstep try BUNDLE --kind quick"  # type: ignore[arg-type]
    with refuses(("kind", "'none'"), "full, quick"):
        Some("own", kind="none")  # type: ignore[arg-type]


def test_a_value_with_a_folder_keeps_its_name() -> None:
    asked = Some(Path("own"), plan="style=/private/style.npz")
    assert asked.command_line("try") == "fewstep try BUNDLE --plan style=style.npz"


def test_a_command_has_what_differs_and_nobodys_folders() -> None:
    asked = Some(Path("own"), plan="mine/plan.json", batches=(2, 4), rounds=3, workers=7)
    assert asked.command_line("try") == "fewstep try BUNDLE --plan plan.json --batches 2,4 --rounds 3"
    assert Some(Path("own"), "a/b.py:c:4@d/e.py:f").command_line("try") == "fewstep try BUNDLE --plan b.py:c:4@e.py:f"
    assert Some(Path("own")).command_line("try", always=("plan",)) == "fewstep try BUNDLE --plan ddim:2"


@pytest.mark.parametrize(("guidance", "words"), [(2.0, "2"), (0.5, "0.5"), (7.1234567, "7.1234567")])
def test_a_number_in_a_command_is_the_same_number(guidance: float, words: str) -> None:
    assert FitOptions("own", guidance=guidance).command_line("fit").endswith(f" --guidance {words}")  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", VERBS)
def test_those_of_every_verb_do(verb: str) -> None:
    module = pytest.importorskip(f"fewstep.cli.verbs.{verb}")
    assert issubclass(options_of(module.verb), Options)


def test_options_that_check_what_they_are_given_do_too(tmp_path: Path) -> None:
    assert CalibrateOptions("own", target="cpu-x86").target == ("cpu-x86",)  # type: ignore[arg-type]
    assert ExportOptions(Path("a.onnx"), "b", "s.json").spec == Path("s.json")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not 'page.txt'"):
        ReportOptions("own", "page.txt")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there is no bundle"):
        verify(VerifyOptions(str(tmp_path / "no")))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Texts(Options):
    bundle: Path
    text: tuple[str, ...] = field(default=(), metadata={"whole": True, "is_text": True})


@pytest.mark.parametrize(
    ("text", "recorded"),
    [("prompt=a/b", "prompt=a/b"), ("a/b", "a/b"), ("image=@own/x.npy", "image=@x.npy")],
)
def test_a_text_keeps_its_slashes_and_a_file_loses_its_folder(text: str, recorded: str) -> None:
    assert Texts(Path("own"), (text,)).command_line("try") == f"fewstep try BUNDLE --text {recorded}"
