"""No figure of a table loses a digit, however narrow the place that it is printed to."""

import re
import sys

import pytest
from rich.table import Table

from fewstep.cli.outcome import Outcome, tell
from fewstep.cli.output_flags import Manner
from fewstep.cli.tables import figures

BODIES = ("float32", "int8-cpu-x86-7bit")
CELLS = ("45.1", "93.5 %", "37.4 kB", "1.10x 0.0963 ms", "1.32x 0.0231 ms", "12.30x 0.0077 ms")
CAPTION = "PSNR in dB, mean and 5th percentile, against float32 along the same plan."


def table() -> Table:
    headings = ("PSNR", "int8", "size", "batch 1", "batch 8", "batch 64")
    return figures("bundle, ddim:4", headings, [(body, *CELLS) for body in BODIES], CAPTION)


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    tell(Outcome(None, (table(),)), Manner())
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)  # colours of a terminal


def test_a_pipe_has_no_width(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = shown(capsys).splitlines()
    for body in BODIES:
        (line,) = (line for line in lines if line.startswith(f" {body}"))
        assert re.split(r"\s{2,}", line.strip()) == [body, *CELLS]
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize("columns", [80, 60, 30])
@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "asked"])
def test_a_narrow_place_has_every_word_whole(
    is_terminal: bool, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words go on in a next line; each of them stays whole, and is there as often as in the table."""
    monkeypatch.setenv("COLUMNS", str(columns))  # as a shell with a terminal sets it
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    words = shown(capsys).split()
    for word in " ".join(CELLS).split():
        assert words.count(word) == len(BODIES) * " ".join(CELLS).split().count(word), word
    assert "…" not in words and set(BODIES) <= set(words)
    assert set(CAPTION.split()) <= set(words)
