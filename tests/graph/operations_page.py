"""The table of operations in docs/engines.md: `python -m tests.graph.operations_page` writes it."""

import re
from pathlib import Path

from fewstep.graph.engine_operations import FIRST, version_text

PAGE = Path(__file__).parents[2] / "docs/engines.md"
TABLE = re.compile(r"(?<=<!-- table operations -->\n).*?(?=<!-- end -->)", re.DOTALL)


def fill_page(page: str) -> str:
    """The page with the table made anew."""
    rows = [f"| {version_text(version)} | {ops} |" for version, ops in FIRST.items()]
    return TABLE.sub("\n".join(["| TensorRT | operations parsed from this version on |", "|---|---|", *rows, ""]), page)


if __name__ == "__main__":
    PAGE.write_text(fill_page(PAGE.read_text()))
