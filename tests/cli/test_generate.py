"""A command is generated from a dataclass: names, types, defaults and help come from there and nowhere else."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fewstep.cli.generate import command, field_help
from fewstep.runtime.errors import UserError
from fewstep.runtime.progress import SILENT, Progress


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


def parse(*arguments: str) -> Options:
    seen: list[Options] = []

    def verb(options: Options, progress: Progress) -> None:
        assert progress is SILENT
        seen.append(options)

    app = typer.Typer()
    app.command()(command(verb, SILENT))
    done = CliRunner().invoke(app, list(arguments))
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return seen[0]


def test_defaults_are_those_of_the_dataclass() -> None:
    assert parse("a") == Options(Path("a"))


def test_every_kind_of_field_is_parsed() -> None:
    line = "a --times 5 --weight 1.5 --target x,y --target z --sizes 1,2 --is-loud -o b"
    assert parse(*line.split()) == Options(Path("a"), 5, 1.5, ("x", "y", "z"), (1, 2), True, Path("b"))


def test_a_wrong_item_of_a_list_is_named() -> None:
    with pytest.raises(UserError, match="--sizes 1,two is not a list of int"):
        parse("a", "--sizes", "1,two")


def test_help_comes_from_the_docstring() -> None:
    assert field_help(Options) == {"place": "Where to do it, in words that need a second line.", "times": "How often."}

    def verb(options: Options, progress: Progress) -> None: ...

    assert command(verb, SILENT).__doc__ == "Do the thing.\n\nIt is done thoroughly."
