"""The matrix of lab/families.md: the steps that each family went through, and their results.

    python -m tests.families.page            writes every row again
    python -m tests.families.page dit ...    only those of these files

A figure that equals the page's up to rounding stays, so that the page changes only where results have changed.
"""

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.families.chain import COLUMNS, Family, Found, available, families, prove

PAGE = Path(__file__).parents[2] / "lab/families.md"
NUMBER = re.compile(r"\d[\de.-]*")
ZERO = 1e-9  # what "0" may be on another machine
ROUNDING = 1e-5  # of float32: whole networks differ from torch by less, and by how much depends on the CPU
TABLE = re.compile(r"(?<=<!-- table families -->\n).*?(?=\n<!-- end -->)", re.DOTALL)


def cells(family: Family, found: Mapping[str, Found]) -> dict[str, str]:
    """Return a family's row, by step; "no: reason" for an impossible step."""
    return {
        step: f"no: {family.no[step]}" if step in family.no else _cell(found[step]) for step in _known(family, found)
    }


def agree(written: str, made: str) -> bool:
    """Return whether two cells have the same words, and the same numbers as far as machines agree on them.

    Differences may differ by a factor of ten or lie within the rounding of float32, other numbers by a fifth or by two.
    """
    if NUMBER.sub("0", written) != NUMBER.sub("0", made):
        return False
    return all(_close(a, b) for a, b in zip(NUMBER.findall(written), NUMBER.findall(made), strict=True))


def rows(text: str) -> dict[str, dict[str, str]]:
    """Return the rows of the page by family and step."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.findall(text)[0].splitlines()[2:]]
    return {line[0]: dict(zip(COLUMNS, line[1:])) for line in lines}


def fill_page(text: str, made: Mapping[str, Mapping[str, str]]) -> str:
    """Return the page with these rows; rows of other families stay."""
    before = rows(text)
    table = [["family", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1)]
    for family in families():
        old, new = before.get(family.name, {}), made.get(family.name, {})
        row = []
        for step in COLUMNS:
            written, cell = old.get(step, ""), new.get(step, old.get(step, ""))
            row.append(written if agree(written, cell) else cell)
        table.append([family.name, *row])
    return TABLE.sub("\n".join(f"| {' | '.join(line)} |" for line in table).replace("\\", "\\\\"), text)


def _known(family: Family, found: Mapping[str, Found]) -> list[str]:
    return [step for step in COLUMNS if step in found or step in family.no]


def _cell(found: Found) -> str:
    difference = (
        "" if found.difference is None else f"{found.difference:.0e}".replace("e-0", "e-").replace("0e+00", "0")
    )
    return ", ".join(part for part in (difference, found.text) if part)


def _close(a: str, b: str) -> bool:
    if a == b:
        return True
    if "e" in a + b or "0" in (a, b):
        small, large = sorted(max(float(each), ZERO) for each in (a, b))
        return large <= 10 * small or large <= ROUNDING
    small, large = sorted(float(each) for each in (a, b))
    return large - small <= 2 or large <= 1.2 * small


def main(stems: list[str]) -> int:
    """Return the number of families that failed. Each row is written as soon as it is known."""
    failed = 0
    for family in families():
        if stems and family.stem not in stems:
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                row = cells(family, prove(family, Path(folder)))
        except Exception as error:
            failed += 1
            sys.stdout.write(f"{family.stem} failed: {type(error).__name__}: {error}\n")
            continue
        sys.stdout.write(f"{family.name}: {', '.join(row.values())}\n")
        PAGE.write_text(fill_page(PAGE.read_text(), {family.name: row}))
    missing = [step for step in COLUMNS if not available(step)]
    if missing:
        sys.stdout.write(f"as they were, not installed: {', '.join(missing)}\n")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
