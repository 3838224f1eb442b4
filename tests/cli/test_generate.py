"""A command is generated from a dataclass: names, types, defaults and help come from there and nowhere else."""

import inspect
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fewstep.cli.generate import field_help, make_command, manner_parameters
from fewstep.cli.main import main
from fewstep.cli.outcome import Outcome
from fewstep.cli.output_flags import OutputOptions
from fewstep.plans.errors import UserError
from fewstep.runtime.progress import SILENT, Progress
from tests.refusals import refuses


@dataclass(frozen=True)
class Options:
    """Do the thing.

    It is done thoroughly.

    place: Where to do it, in words
        that need a second line.
    times: How often.
    """

    place: Path
    times: int = 3
    weight: float | None = None
    target: tuple[str, ...] = ("here", "there")
    sizes: tuple[int, ...] = ()
    is_loud: bool = False
    output: Path = field(default=Path("out"), metadata={"short": "-o"})


def verb(options: Options, progress: Progress) -> Outcome:
    assert progress is SILENT
    return Outcome(options)


def dry_run(options: Options) -> Outcome:
    return Outcome(("not", options))


def outcome(*arguments: str) -> Outcome:
    """Return the result of the generated command for a line."""
    seen: list[Outcome] = []
    app = typer.Typer()
    app.command()(make_command(verb, SILENT, seen.append, dry_run))
    done = CliRunner().invoke(app, list(arguments))
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return seen[0]


def parse(*arguments: str) -> object:
    return outcome(*arguments).value


def test_defaults_are_those_of_the_dataclass() -> None:
    assert parse("a") == Options(Path("a"))


def test_every_kind_of_field_is_parsed() -> None:
    line = "a --times 5 --weight 1.5 --target x,y --target z --sizes 1,2 --is-loud -o b"
    assert parse(*line.split()) == Options(Path("a"), 5, 1.5, ("x", "y", "z"), (1, 2), True, Path("b"))


def test_a_wrong_item_of_a_list_is_named() -> None:
    with refuses(names="--sizes 1,two is not a list"):
        parse("a", "--sizes", "1,two")


def test_an_option_without_a_value_is_named() -> None:
    with refuses(names="--target", fix="leave the option out"):
        parse("a", "--target", "")


def test_help_comes_from_the_docstring() -> None:
    assert field_help(Options) == {"place": "Where to do it, in words that need a second line.", "times": "How often."}
    made = make_command(verb, SILENT, lambda outcome: None)
    assert made.__doc__ == "Do the thing.\n\nIt is done thoroughly."


def test_a_dry_run_is_another_function_of_the_same_options() -> None:
    assert parse("a", "--dry-run") == ("not", Options(Path("a")))


def test_every_command_declares_the_flags_of_manner() -> None:
    names = {parameter.name for parameter in manner_parameters()}
    assert names == {field.name for field in fields(OutputOptions)}
    assert names < set(inspect.signature(make_command(verb, SILENT, lambda outcome: None)).parameters)


def test_help_fits_a_terminal_and_names_every_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choices are in the text, so that the columns of names and types stay narrow."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["calibrate", "--help-all"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 97 and "step|pooled" not in shown
    assert all(word in shown for word in ("step", "pooled", "openvino-bf16"))
