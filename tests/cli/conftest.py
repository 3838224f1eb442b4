"""Command lines in the process of the tests: importing their libraries again would take longer than most of them."""

import json
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from fewstep.cli.main import main


class Printed(NamedTuple):
    """What a command printed to stdout and stderr."""

    out: str
    err: str


Command = Callable[..., Printed]
Document = Callable[..., Any]
Refusal = Callable[..., str]


@pytest.fixture
def fewstep(capsys: pytest.CaptureFixture[str]) -> Command:
    """A function: what a command line prints, which ends with that exit code."""

    def run(*arguments: object, code: int = 0) -> Printed:
        capsys.readouterr()
        assert main([*map(str, arguments)]) == code
        return Printed(*capsys.readouterr())

    return run


@pytest.fixture
def document(fewstep: Command) -> Document:
    """A function: what a command prints with --json."""
    return lambda *arguments, code=0: json.loads(fewstep(*arguments, "--json", code=code).out)


@pytest.fixture
def refusal(fewstep: Command) -> Refusal:
    """A function: the one line of a refused command, with its fix."""

    def run_refused(*arguments: object, code: int = 1) -> str:
        (line,) = fewstep(*arguments, code=code).err.splitlines()
        assert line.startswith("fewstep: ") and "; " in line
        return line

    return run_refused


def as_in_a_terminal() -> None:
    """A background job of a shell ignores SIGINT, and so would what these tests start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
