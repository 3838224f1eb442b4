"""What the documents print for readers to run: commands (indented, or fenced as sh) and python blocks (fenced).

A comment in front of a block, or of a page's first line, says why the tests do not run it:

    <!-- by hand: REASON -->     `.ci/readme` runs it, in a fresh clone
    <!-- not run: REASON -->     nothing does: it needs a device, or changes the system

`python -m tests.docs.docs_blocks` prints the commands that are run by hand, for `.ci/readme`.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
TOP = tuple(
    ROOT / name for name in ("README.md", *(f".github/{each}.md" for each in ("CONTRIBUTING", "RELEASING", "SECURITY")))
)
LAB = (*sorted((ROOT / "lab").glob("*.md")), *sorted((ROOT / "lab/measured").glob("*.md")))
PAGES = (*TOP, *sorted((ROOT / "docs").rglob("*.md")), *LAB)
PROGRAMS = ("fewstep", "pip", "python", "sudo", "source", "apt-get", "nvpmodel", "jetson_clocks", "tegrastats")
MARK = re.compile(r"<!-- (by hand|not run): (.+) -->")


@dataclass(frozen=True)
class Block:
    """`kind` is "sh" or "python"; `mark` is "" for what the tests run, and `reason` says why they do not."""

    page: Path
    line: int
    kind: str
    text: str
    mark: str
    reason: str

    @property
    def commands(self) -> tuple[str, ...]:
        """The command lines of a block for the shell, comments left out, continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        lines = (re.sub(r"\s+#.*", "", line).strip() for line in joined.splitlines())
        return tuple(line for line in lines if line and not line.startswith("#"))


def blocks(page: Path) -> Iterator[Block]:
    """Every block of a page, in order."""
    lines = page.read_text().splitlines()
    whole = MARK.fullmatch(lines[0]) if lines else None
    number = 0
    while number < len(lines):
        fence = re.fullmatch(r"```(\w+)", lines[number])
        first = number + 1 if fence else number
        if fence:
            end = lines.index("```", first)
        elif _is_command(lines, number):
            end = next((n for n in range(first, len(lines)) if not lines[n].startswith("    ")), len(lines))
        else:
            number += 1
            continue
        kind = fence[1] if fence else "sh"
        if kind in ("sh", "python"):
            mark = whole or _mark_before(lines, number)
            text = "\n".join(line if fence else line[4:] for line in lines[first:end])
            yield Block(page, first + 1, kind, text, mark[1] if mark else "", mark[2] if mark else "")
        number = end + 1


def functions(*pages: Path) -> SimpleNamespace:
    """Return the functions of the pages' python blocks, without the code that calls them."""
    session: dict[str, object] = {}
    for block in (each for page in pages for each in blocks(page) if each.kind == "python"):
        tree = ast.parse(block.text)
        tree.body = [
            statement for statement in tree.body if isinstance(statement, ast.FunctionDef | ast.Import | ast.ImportFrom)
        ]
        exec(compile(tree, str(block.page), "exec"), session)
    return SimpleNamespace(**session)


def headings(page: Path) -> list[str]:
    """The anchors that GitHub makes of a page's headings, in their order. It numbers those that are equal."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    anchors = [heading.replace(" ", "-") for heading in kept]
    return [f"{anchor}-{n}" if (n := anchors[:place].count(anchor)) else anchor for place, anchor in enumerate(anchors)]


def _is_command(lines: list[str], number: int) -> bool:
    """The first line of an indented block that starts with a program."""
    begins = number == 0 or not lines[number - 1].startswith("    ")
    return begins and lines[number].startswith("    ") and lines[number].split()[0] in PROGRAMS


def _mark_before(lines: list[str], number: int) -> "re.Match[str] | None":
    """The comment in front of a block; an empty line may stand between."""
    before = [line for line in lines[max(0, number - 2) : number] if line]
    return MARK.fullmatch(before[-1]) if before else None


if __name__ == "__main__":
    found = (block for page in PAGES for block in blocks(page))
    for block in found:
        if block.mark == "by hand" and block.kind == "sh":
            where = f"# {block.page.relative_to(ROOT)}:{block.line}: {block.reason}"
            sys.stdout.write("\n".join((where, *block.commands, "")))
