"""Read lab/systems.md and lab/system_notes.md, and put what the lines of claims.py decide into the first."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.markdown import with_part
from lab.claims.authors_baselines import AUTHORS, BETTER_BUT_REFUSED
from lab.claims.claim import ITSELF, OF_ITS_PLAN
from lab.claims.claim_lines import Line, contains_its_control
from lab.claims.headlines import headline_table

PAGE, NOTES = (Path(__file__).parents[2] / "lab" / name for name in ("systems.md", "system_notes.md"))
MADE = "lab.claims, headlines"  # the part of the page between the comments with this name
HEADER = ("system", "claim of the authors", "state", "claim holds here", "worth to a user")
STATE, HOLDS, WORTH = 2, 3, 4  # cells of a row; the last two are written from lines
STATES = ("works", "part", "checkpoint", "missing", "out")  # words of cells, in the order of rows
HOLDS_WORDS = ("yes", "in part", "not decided", "no", "not tried")
WORTH_WORDS = ("pays", "pays in part", "not decided", "does not pay", "not tried")
OTHERS = "Titles without a system"  # the last section of the notes
PARTS = {  # the name of a system, or of its measured part, in lines
    "DPM-Solver": "singlestep DPM-Solver",
    "HB, GHVB": "HB, GHVB, Nesterov",
}


def rows(page: str) -> list[list[str]]:
    """Return the cells of each system's row."""
    return [cells for cells in map(_cells, page.splitlines()) if _is_row(cells)]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip()[1:-1].split("|")] if line.startswith("| ") else []


def _is_row(cells: Sequence[str]) -> bool:
    return len(cells) == len(HEADER) and cells[0].startswith("[")


def name_of(row: Sequence[str]) -> str:
    """Return the name of a row's system, which is the text of a link."""
    return row[0][1:].partition("]")[0]


def checkpoints(page: str) -> list[str]:
    """Return the systems of the short table, which at run time consist only of weights."""
    _, _, part = page.partition("## Weights that run as Stable Diffusion does")
    return re.findall(r"^\| ([^|]+) \|[^|]+\|[^|]+\|$", part, re.MULTILINE)[2:]


def notes(page: str) -> dict[str, str]:
    """Return the note on each system, by the name in its heading, without line breaks."""
    _, *parts = re.split(r"^## ", page.partition(f"\n## {OTHERS}\n")[0], flags=re.MULTILINE)
    return {name: re.sub(r"\n +", " ", text) for name, _, text in (part.partition("\n") for part in parts)}


def tests(note: str) -> list[tuple[str, str]]:
    """Return the file and the function of each test that a note names."""
    return re.findall(r"`(tests/[^`]+\.py)::(\w+)`", note)


def code(note: str) -> list[str]:
    """Return the modules and names of code that a note names, as they would be written in a program."""
    _, _, of = note.partition("- *Code*:")
    named = re.findall(r"`((?!tests/|benchmarks/|--)[^` ]+)`", of.partition("\n")[0])
    return [each.rstrip("/").removesuffix(".py").split("(")[0].split(":")[0].rpartition("/")[2] for each in named]


def lines_of(system: str, lines: Sequence[Line]) -> list[Line]:
    """Return the lines of a row, by the name of its system."""
    names = tuple(PARTS.get(system, system).split(", "))
    names = tuple(PARTS.get(name, name) for name in names)
    return [line for line in lines if line.system.startswith(names)]


def renew_page(page: str, lines: Sequence[Line]) -> str:
    """Return the page with what these lines decide, and with the rows of each table in the order of their worth.

    A row with lines gets its last two cells from them. If no line has a baseline of the authors, it keeps its cell
    about the claim.
    """
    parts = list[str]()
    for is_row, group in groupby(page.split("\n"), lambda line: _is_row(_cells(line))):
        texts = list(group)
        parts += _in_order([_renew_row(_cells(text), lines) for text in texts]) if is_row else texts
    return "\n".join(parts)


def _renew_row(row: list[str], lines: Sequence[Line]) -> list[str]:
    if not (of := lines_of(name_of(row), lines)):
        return row
    pays = worth(of)
    if name_of(row) in BETTER_BUT_REFUSED and pays.startswith("pays"):
        pays = "not decided"
    return [*row[:HOLDS], holds(of) or row[HOLDS], pays]


def _in_order(table: Sequence[list[str]]) -> Iterator[str]:
    def place(row: list[str]) -> tuple[int, int, int, str]:
        held = row[HOLDS].partition(":")[0]
        places = (WORTH_WORDS.index(row[WORTH]), HOLDS_WORDS.index(held), STATES.index(row[STATE]))
        return *places, name_of(row).lower()

    return (f"| {' | '.join(row)} |" for row in sorted(table, key=place))


def with_headlines(page: str, lines: Sequence[Line]) -> str:
    """Return the page with the table of headlines of these lines."""
    return with_part(page, MADE, headline_table(lines))


def holds(lines: Sequence[Line]) -> str:
    """Return whether the authors' claim holds, by the lines whose control is the authors' own baseline, with their
    networks, or with the number of lines if they differ. The text is empty without such lines."""
    found = defaultdict[str, list[str]](list)
    for line in lines:
        if line.control in AUTHORS.get(line.system, ()) and not contains_its_control(line):
            found["yes" if line.holds else "not decided" if line.is_undecided else "no"].append(line.model)
    if len(found) < 2:
        return "".join(f"{word}: {', '.join(dict.fromkeys(models))}" for word, models in found.items())
    count = sum(map(len, found.values()))
    return f"in part: {len(found['yes'])} of {count} comparisons" if "yes" in found else "no"


def worth(lines: Sequence[Line]) -> str:
    """Return whether a system pays. It pays in part if a line pays, and no other line of the same variant, model,
    figure and evaluations has a significant loss at equal evaluations. A loss at fewer evaluations counts for all. The
    best of N of a system's own plan does not count, since another plan gives better ones."""
    lines = [line for line in lines if line.control != OF_ITS_PLAN and not contains_its_control(line)] or lines
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
