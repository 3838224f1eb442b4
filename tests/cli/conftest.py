"""Command lines in the test's process, since importing their libraries again would take longer than most tests."""

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
    """A function that runs a command line, checks its exit code, and returns what it printed."""

    def run(*arguments: object, code: int = 0) -> Printed:
        capsys.readouterr()
        assert main([*map(str, arguments)]) == code
        return Printed(*capsys.readouterr())

    return run


@pytest.fixture
def document(fewstep: Command) -> Document:
    """A function that returns the document that a command prints with --json."""
    return lambda *arguments, code=0: json.loads(fewstep(*arguments, "--json", code=code).out)


@pytest.fixture
def refusal(fewstep: Command) -> Refusal:
    """A function that returns the line of a refused command, with its fix."""

    def run_refused(*arguments: object, code: int = 1) -> str:
        (line,) = fewstep(*arguments, code=code).err.splitlines()
        assert line.startswith("fewstep: ") and "; " in line
        return line

    return run_refused


def as_in_a_terminal() -> None:
    """Restore SIGINT, which background jobs of a shell ignore. Processes that these tests start would ignore it too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
