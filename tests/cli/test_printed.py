"""Text for a terminal: escaped, cut, in characters that it can show; figures have all their digits."""

import io
import json
import logging
import os
import re
import sys
from pathlib import Path

import pytest
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from fewstep.cli.app import _Stderr
from fewstep.cli.main import main
from fewstep.cli.outcome import Outcome, print_outcome, to_json
from fewstep.cli.output_flags import OutputOptions
from fewstep.cli.progress import Lines
from fewstep.cli.tables import multiline_cell
from fewstep.cli.tables import table as table_of
from tests.bundles import change_bundle
from tests.cli.conftest import Command

EVIL = "evil\x1b[2J\x9b1m\u202eback\nfake: whole; all is well"
ESCAPED = r"evil\x1b[2J\x9b1m\u202eback\nfake: whole; all is well"
NAME = "\u65e5\u672c \u00fc \U0001f600"
LONG = "label" * 20_000


def harmless(text: str) -> bool:
    return all(character.isprintable() for character in text.replace("\n", ""))


def test_the_name_of_a_bundle_moves_no_cursor(tiny_bundle: Path, fewstep: Command) -> None:
    printed = fewstep("inspect", change_bundle(tiny_bundle, name=EVIL))
    assert harmless(printed.out) and harmless(printed.err) and ESCAPED in printed.out
    assert not any(line.startswith("fake") for line in printed.out.splitlines())


def test_a_long_name_is_cut(tiny_bundle: Path, fewstep: Command) -> None:
    printed = fewstep("inspect", change_bundle(tiny_bundle, name=LONG)).out
    assert max(map(len, printed.splitlines())) < 3000 and "characters left out" in printed


def test_json_has_all_of_a_name_and_nothing_that_is_not_printable(tiny_bundle: Path, fewstep: Command) -> None:
    printed = fewstep("inspect", change_bundle(tiny_bundle, name=EVIL + LONG), "--json").out
    assert harmless(printed) and json.loads(printed)["manifest"]["name"] == EVIL + LONG


def test_lines_tables_trees_notes_and_progress_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(escape(EVIL),), (multiline_cell([EVIL, "[red]second[/red] line"]),)]
    table = table_of(("body",), rows, ("body",), EVIL, EVIL)
    tree = Tree("root")
    tree.add(escape(EVIL)).add(escape(f"[bold]{EVIL}"))
    print_outcome(Outcome(None, (EVIL, table, tree)), OutputOptions())
    _Stderr().emit(logging.LogRecord("fewstep", logging.WARNING, "", 0, EVIL, None, None))
    Lines(sys.stderr)(EVIL, 1, 1)
    printed, said = capsys.readouterr()
    assert harmless(printed) and harmless(said)
    assert printed.count(ESCAPED.partition("fake")[0]) == 7 and said.splitlines() == [ESCAPED, f"{ESCAPED}: 1/1"]
    assert "\n [red]second[/red] line" in printed and "[bold]evil" in printed
    assert not any(line.strip().startswith("fake") for line in printed.splitlines() if "fake: whole; all" in line)


def test_a_failure_that_no_user_can_cause_is_escaped_too(
    tiny_bundle: Path, fewstep: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError(EVIL)

    monkeypatch.setattr("fewstep.cli.verbs.run.sample_to_files", broken)
    said = fewstep("run", tiny_bundle, code=70).err
    assert harmless(said) and said.splitlines()[0].startswith("Traceback")
    assert said.splitlines()[-1].startswith("fewstep: a bug in fewstep: ValueError: evil")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_stdout_that_cannot_show_a_name_has_it_escaped(
    tiny_bundle: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a redirect on Windows does."""
    bundle = change_bundle(tiny_bundle.rename(tiny_bundle.parent / NAME), name=NAME)

    def console_text(*arguments: str) -> str:
        stdout = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main([*arguments, str(bundle)]) == 0
        stdout.flush()
        return stdout.buffer.getvalue().decode(encoding)

    shown = NAME.encode(encoding, "backslashreplace").decode(encoding)
    assert f"{shown}: intact" in console_text("verify") and f"{shown}, " in console_text("inspect")
    assert json.loads(console_text("inspect", "--json"))["manifest"]["name"] == NAME


def test_a_path_that_is_no_text_is_printed() -> None:
    path = Path(os.fsdecode(b"b\xff"))
    value = {"bundle": path, "also": [str(path), float("nan"), 1, ("a", {str(path): None})]}
    assert json.loads(to_json(value)) == {
        "bundle": r"b\udcff",
        "also": [r"b\udcff", None, 1, ["a", {r"b\udcff": None}]],
    }
    for key in (None, ("a", 1), True):  # no text of these names one value
        with pytest.raises(TypeError, match="keys"):
            to_json([{key: 1}])


def test_a_short_stage_is_one_line() -> None:
    file = io.StringIO()
    progress = Lines(file)
    for stage in ("one", "two"):
        for done in range(1, 101):
            progress(stage, done, 100)
    assert file.getvalue() == "one: 100/100\ntwo: 100/100\n"


BODIES = ("float32", "int8-cpu-x86-no-vnni")
CELLS = ("45.1", "93.5 %", "37.4 kB", "1.10x 0.0963 ms", "1.32x 0.0231 ms", "12.30x 0.0077 ms")
CAPTION = "PSNR in dB, mean and 5th percentile, against float32 along the same plan."


def table() -> Table:
    headings = ("PSNR", "int8", "size", "batch 1", "batch 8", "batch 64")
    return table_of(("body", *headings), [(body, *CELLS) for body in BODIES], ("body",), "bundle, ddim:4", CAPTION)


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    print_outcome(Outcome(None, (table(),)), OutputOptions())
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
    """Words wrap to the next line. Each stays whole, and occurs as often as in the table."""
    monkeypatch.setenv("COLUMNS", str(columns))  # as a shell with a terminal sets it
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    words = shown(capsys).split()
    for word in " ".join(CELLS).split():
        assert words.count(word) == len(BODIES) * " ".join(CELLS).split().count(word), word
    assert "…" not in words and set(BODIES) <= set(words)
    assert set(CAPTION.split()) <= set(words)
