"""Read lab/systems.md, and put the figures of claims.py into it."""

import re
from collections.abc import Sequence
from pathlib import Path

from lab.claims.claim import ITSELF
from lab.claims.claim_lines import Line

PAGE = Path(__file__).parents[2] / "lab/systems.md"
MEASURED = "[claims](claims.md):"
WORKS = re.compile(r"works(; [^:;]*)?")  # beginning of a verdict
CELLS = 6  # number of cells of a row: system, method and test, claim, figure, verdict, control
PARTS = {  # the name of a system, or of its measured part, in lines
    "DPM-Solver": "singlestep DPM-Solver",
    "FIND": "REINFORCE on the start",
    '"Hyperparameters" study': "Hyperparameters",
}


def rows(page: str) -> list[list[str]]:
    """Return the cells of each system's row: system, method and test, claim, figure, verdict, control."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines]
    return [row for row in cells if len(row) == CELLS and row[0] != "system" and not row[0].startswith("---")]


def checkpoints(page: str) -> list[str]:
    """Return the systems of the short table, which at run time consist only of weights."""
    _, _, part = page.partition("## Weights that run as Stable Diffusion does")
    return re.findall(r"^\| ([^|]+) \|[^|]+\|[^|]+\|$", part, re.MULTILINE)[2:]


def tests(method: str) -> list[tuple[str, str]]:
    """Return the file and the function of each test that a row names."""
    return re.findall(r"`(tests/[^`]+\.py)::(\w+)`", method)


def code(method: str) -> list[str]:
    """Return the modules and names of code that a row names, as they would be written in a program."""
    named = re.findall(r"`((?!tests/|benchmarks/|--)[^` ]+)`", method)
    return [each.rstrip("/").removesuffix(".py").split("(")[0].split(":")[0].rpartition("/")[2] for each in named]


def lines_of(system: str, lines: Sequence[Line]) -> list[Line]:
    """Return the lines of a row, by the text of its first cell."""
    names = tuple(PARTS.get(name, name) for name in system.split(", "))
    return [line for line in lines if line.system.startswith(names)]


def renewed(page: str, lines: Sequence[Line]) -> str:
    """Return the page with the figures of these lines in the cells that begin with `MEASURED`, and after the word
    "works" whether the systems pay."""
    return "\n".join(_renewed(line, lines) for line in page.split("\n"))


def _renewed(row: str, lines: Sequence[Line]) -> str:
    if not row.startswith("| ") or MEASURED not in row:
        return row
    cells = row.strip()[2:-1].split(" | ")
    of = lines_of(cells[0], lines)
    cells[3] = f"{MEASURED} {'; '.join(_figure(line, cells[0]) for line in of) or 'no line is kept'}"
    if of and cells[4].startswith("works"):
        cells[4] = WORKS.sub(f"works; {worth(of)}", cells[4], count=1)
    return f"| {' | '.join(cells)}|" if row.endswith("|") else row


def worth(lines: Sequence[Line]) -> str:
    """Return whether a system pays. It pays in part if a line pays, and no other line of the same model, figure and
    evaluations has a significant loss at equal evaluations. A loss at fewer evaluations counts for all."""
    if all(line.pays for line in lines):
        return "pays"
    if all(line.is_open for line in lines):
        return "not decided"
    rivals = [line for line in lines if line.control != ITSELF and line.of_plain <= line.evaluations]
    lost = [line for line in rivals if not (line.pays or line.is_open)]
    places = {_place(line) for line in lost}
    pays = any(line.pays and _place(line) not in places for line in lines)
    return "pays in part" if pays and all(line.of_plain == line.evaluations for line in lost) else "does not pay"


def _place(line: Line) -> tuple[str, str, int]:
    return line.model, line.figure, line.evaluations


def _figure(line: Line, system: str) -> str:
    word = "pays" if line.pays else "not decided" if line.is_open else "no"
    name = "" if line.system == system else f"{line.system}, "
    gained = f"{line.gain.mean:+.2f}" if line.asked is None else f"{line.ours / line.plain:.2f}x"
    return f"{name}{line.figure} {gained} to {line.control}, {line.model} ({word})"
