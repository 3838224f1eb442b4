"""Tables for the terminal, printed so wide that no number is truncated."""

import os
import sys
from collections.abc import Collection, Iterable, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from fewstep.plans.errors import printable

WIDE = 10_000  # columns, more than anything here needs


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[RenderableType]],
    text: Collection[str] = (),
    title: str = "",
    caption: str = "",
) -> Table:
    """Return a table of right-aligned numbers, with left-aligned text in the columns whose headings are in `text`.
    Title and caption are left-aligned.

    If there is not enough room, a number's unit wraps to the next line. Numbers, units and the names in the first
    column are never split.
    """
    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.caption, made.caption_justify = caption or None, "left"
    for heading, *cells in zip(headings, *rows, strict=True):
        words = [word for cell in (heading, *cells) if isinstance(cell, str) for word in cell.split()]
        is_text, is_first = heading in text, not made.columns
        longest = None if is_text else max(map(len, words), default=0)
        made.add_column(str(heading), justify="left" if is_text else "right", no_wrap=is_first, min_width=longest)
    for row in rows:
        made.add_row(*row)
    return made


def multiline_cell(texts: Iterable[str]) -> Text:
    """Return a cell of several lines."""
    return Text("\n".join(map(printable, texts)))


def print_table(part: RenderableType) -> None:
    """Print a table to stdout, as wide as the terminal or the variable COLUMNS, but at least as wide as the longest
    word of each column.

    If stdout is a file or a pipe, nothing wraps.
    """
    _make_printable(part)
    needed = Console(width=WIDE).measure(part)
    is_bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = max(Console().width, needed.minimum) if is_bounded else needed.maximum
    Console(width=width).print(part, crop=False)


def _make_printable(part: RenderableType) -> None:
    """Escape unprintable characters in the texts of a table or a tree, in place. Each text must be a single line; see
    `multiline_cell` for several lines."""
    if isinstance(part, Tree):
        part.label = printable(str(part.label))
        for child in part.children:
            _make_printable(child)
    elif isinstance(part, Table):
        part.title, part.caption = (text and printable(str(text)) for text in (part.title, part.caption))
        for column in part.columns:
            column._cells = [printable(cell) if isinstance(cell, str) else cell for cell in column.cells]
