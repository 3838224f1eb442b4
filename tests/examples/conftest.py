"""Run examples as their first lines say."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
Example = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Example:
    """A function that runs a script, as `python FILE ARGUMENTS` does, and returns its names and its output."""

    def run(name: str, *arguments: object) -> tuple[dict[str, Any], str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.syspath_prepend(EXAMPLES)
        names = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return names, capsys.readouterr().out

    return run
