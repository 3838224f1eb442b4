"""The building blocks of the page. Text is escaped, and numbers keep their exact values.

A number is a <data> element: the displayed text is rounded, its `value` is exact. A program (or a test) can thus
compare a page with its results.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Html:
    """Finished markup. Everything else is text, and is escaped when it enters a page."""

    markup: str


Content = str | Html


def markup(content: Content) -> str:
    return content.markup if isinstance(content, Html) else escape(content)


def join(parts: Iterable[Content], separator: str = "") -> Html:
    return Html(separator.join(markup(part) for part in parts))


def data(value: float, text: str) -> Html:
    """Return a number in HTML: `text` for the reader, and the exact value for programs."""
    return Html(f'<data value="{value!r}">{escape(text)}</data>')


def decibel(value: float) -> Html:
    return data(value, f"{value:.1f} dB")


def percent(value: float, digits: int = 1) -> Html:
    """Format a fraction as a percentage."""
    return data(value, f"{100 * value:.{digits}f} %")


def times(value: float) -> Html:
    return data(value, f"{value:.2f}×")


def milliseconds(seconds: float) -> Html:
    return data(seconds, f"{1000 * seconds:.2f} ms" if seconds < 0.1 else f"{1000 * seconds:.0f} ms")


def size(count: float) -> Html:
    """Format a number of bytes in MB."""
    return data(count, f"{count / 1e6:.2f} MB" if count < 1e8 else f"{count / 1e6:,.0f} MB")


def plain(value: float, digits: int = 3) -> Html:
    return data(value, f"{value:.{digits}f}")


def count(value: int) -> Html:
    return data(value, f"{value:,}")


def paragraph(*parts: Content, kind: str = "") -> Html:
    return Html(f"<p{_class(kind)}>{join(parts).markup}</p>")


def table(head: Sequence[Content], rows: Iterable[Sequence[Content]], text_columns: int = 1) -> Html:
    """Return an HTML table. The first `text_columns` columns are left-aligned text, the others right-aligned
    numbers."""

    def row(cells: Sequence[Content], tag: str) -> str:
        kinds = ["" if index < text_columns else "n" for index in range(len(cells))]
        return "".join(f"<{tag}{_class(k)}>{markup(cell)}</{tag}>" for cell, k in zip(cells, kinds, strict=True))

    titles = f"<thead><tr>{row(head, 'th')}</tr></thead>"
    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return Html(f'<div class="scroll"><table>{titles}<tbody>{body}</tbody></table></div>')


def card(title: Content, figure: Content, note: Content) -> Html:
    """Return an HTML card with a title, one prominent figure, and a note."""
    parts = f"<dt>{markup(title)}</dt><dd>{markup(figure)}</dd><dd class='note'>{markup(note)}</dd>"
    return Html(f'<dl class="card">{parts}</dl>')


def picture(png: bytes, description: str) -> Html:
    """Return an image that is embedded in the page."""
    source = base64.b64encode(png).decode()
    return Html(f'<img src="data:image/png;base64,{source}" alt="{escape(description)}">')


def figure(content: Html, caption: Content) -> Html:
    """Return an HTML figure with its caption. A figure wider than the page scrolls; its caption does not."""
    return Html(
        f'<figure><div class="scroll">{content.markup}</div><figcaption>{markup(caption)}</figcaption></figure>'
    )


def details(summary: str, content: Html) -> Html:
    """Return content that is hidden until the reader opens it. It needs no script."""
    return Html(f"<details><summary>{escape(summary)}</summary>{content.markup}</details>")


def section(title: str, *parts: Html) -> Html:
    anchor = title.lower().replace(" ", "-")
    return Html(f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>{join(parts).markup}</section>')


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
