"""Read lab/systems.md, and put the figures of claims.py into it."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.markdown import with_part
from lab.claims.authors_baselines import AUTHORS
from lab.claims.claim import ITSELF
from lab.claims.claim_lines import Line
from lab.claims.headlines import headline_table

PAGE = Path(__file__).parents[2] / "lab/systems.md"
MEASURED = "[claims](claims.md):"
MADE = "lab.claims, headlines"  # the part of the page between the comments with this name
CELLS = 8  # of a row: system, method and test, claim, figure, state, whether the claim holds, worth, control
FIGURE, HOLDS, WORTH = 3, 5, 6  # cells that are written from lines
HOLDS_WORDS = ("yes", "in part", "not decided", "not tried", "no")
WORTH_WORDS = ("pays in part", "pays", "does not pay", "not decided", "not tried")
PARTS = {  # the name of a system, or of its measured part, in lines
    "DPM-Solver": "singlestep DPM-Solver",
    "FIND": "REINFORCE on the start",
}


def rows(page: str) -> list[list[str]]:
    """Return the `CELLS` cells of each system's row."""
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
    """Return the page with the figures of these lines.

    They are in the cells that begin with `MEASURED`, and in the same rows whether the authors' claim holds and what it
    is worth. A row whose lines have no baseline of the authors keeps its cell about the claim.
    """
    return "\n".join(_renewed(line, lines) for line in page.split("\n"))


def with_headlines(page: str, lines: Sequence[Line]) -> str:
    """Return the page with the table of headlines of these lines."""
    return with_part(page, MADE, headline_table(lines))


def _renewed(row: str, lines: Sequence[Line]) -> str:
    if not row.startswith("| ") or MEASURED not in row:
        return row
    cells = [cell.strip() for cell in row.strip()[1:-1].split("|")]
    of = lines_of(cells[0], lines)
    cells[FIGURE] = f"{MEASURED} {'; '.join(_figure(line, cells[0]) for line in of) or 'no line is kept'}"
    if of:
        cells[HOLDS] = holds(of, cells[0]) or cells[HOLDS]
        cells[WORTH] = worth(of)
    return f"| {' | '.join(cells)} |"


def holds(lines: Sequence[Line], system: str) -> str:
    """Return whether the authors' claim holds, by the lines whose control is the authors' own baseline, with these
    controls and networks; an empty text without such lines."""
    found = defaultdict[str, dict[str, list[str]]](lambda: defaultdict(list))
    for line in lines:
        if line.control in AUTHORS.get(line.system, ()):
            word = "yes" if line.holds else "not decided" if line.is_undecided else "no"
            name = line.control if line.system == system else f"{line.system} to {line.control}"
            found[word][name].append(line.model)
    texts = {
        word: "; ".join(f"{control} on {', '.join(dict.fromkeys(models))}" for control, models in found[word].items())
        for word in ("yes", "not decided", "no")
        if word in found
    }
    if len(texts) < 2:
        return "".join(f"{word}: {of}" for word, of in texts.items())
    first = "in part" if "yes" in texts else "no"
    return f"{first}: " + "; ".join(f"{word}, {of}" for word, of in texts.items())


def worth(lines: Sequence[Line]) -> str:
    """Return whether a system pays. It pays in part if a line pays, and no other line of the same variant, model,
    figure and evaluations has a significant loss at equal evaluations. A loss at fewer evaluations counts for all."""
    if all(line.pays for line in lines):
        return "pays"
    if all(line.is_open for line in lines):
        return "not decided"
    rivals = [line for line in lines if line.control != ITSELF and line.of_plain <= line.evaluations]
    lost = [line for line in rivals if not (line.pays or line.is_open)]
    places = {_place(line) for line in lost}
    pays = any(line.pays and _place(line) not in places for line in lines)
    return "pays in part" if pays and all(line.of_plain == line.evaluations for line in lost) else "does not pay"


def _place(line: Line) -> tuple[str, str, str, int]:
    return line.system, line.model, line.figure, line.evaluations


def _figure(line: Line, system: str) -> str:
    word = "pays" if line.pays else "not decided" if line.is_open else "no"
    gained = f"{line.gain.mean:+.2f}" if line.asked is None else f"{line.ours / line.plain:.2f}x"
    return f"{_named(line, system)}{line.figure} {gained} to {line.control}, {line.model} ({word})"


def _named(line: Line, system: str) -> str:
    return "" if line.system == system else f"{line.system}, "
