"""Markdown that scripts write: tables, and the part of a page that a script makes."""

from collections.abc import Sequence
from pathlib import Path

from fewstep.plans.errors import UserError


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def part_of(page: str, script: str) -> str:
    """Return the part of a page between the two comments that name a script. Raises UserError if there is none."""
    start, end = _comments(script)
    if start not in page or end not in page:
        raise UserError(f"the page has no part that {script} writes", f"put {start} and {end} into it")
    return page[page.index(start) + len(start) : page.index(end)].strip()


def with_part(page: str, script: str, part: str) -> str:
    """The page with another part between these comments."""
    part_of(page, script)  # refused without them
    start, end = _comments(script)
    return page[: page.index(start) + len(start)] + f"\n\n{part}\n\n" + page[page.index(end) :]


def put_part(file: Path, script: str, part: str) -> None:
    """Write the page of a file with another part between these comments."""
    file.write_text(with_part(file.read_text(), script, part))


def _comments(script: str) -> tuple[str, str]:
    return f"<!-- made by {script} -->", f"<!-- end of what {script} makes -->"
