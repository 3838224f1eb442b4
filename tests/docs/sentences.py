"""The sentences of a Markdown page, and how many words they have.

Headings, code blocks, tables, comments and images have no sentences. A code span is one word, and a link counts as its
text. An item of a list and a paragraph end a sentence, as do `.`, `!` and `?` in front of a space. A colon and a
semicolon do not.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

ABBREVIATIONS = ("e.g.", "i.e.", "vs.", "cf.", "al.", "approx.", "resp.")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
FENCE = re.compile(r"\s*(```+|~~~+)")
HEADING = re.compile(r"#{1,6}\s")
ITEM = re.compile(r"\s*([-*+]|\d+[.)])\s+")
INDENT = 4  # of a code block, beyond the text of its list
CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)")
SPACE = "\0"  # in the place of a space within a code span
END = re.compile(r"[.!?][\"')\]]*(?=\s)")


@dataclass(frozen=True)
class Sentence:
    """`line` is the line of the page on which its paragraph begins."""

    line: int
    text: str

    @property
    def words(self) -> int:
        """Signs alone, as a dash or an equals sign, are no words."""
        return sum(1 for word in _in_one_piece(self.text).split() if re.search(r"[\w`]", word))


def sentences(page: str) -> Iterator[Sentence]:
    """Every sentence of a page, in order."""
    for line, paragraph in paragraphs(page):
        for part in split(plain(paragraph)):
            sentence = Sentence(line, part)
            if sentence.words:
                yield sentence


def paragraphs(page: str) -> Iterator[tuple[int, str]]:
    """Every paragraph and every item of a list in one line, with the line of the page on which it begins."""
    lines = COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), page).split("\n")
    kept: list[str] = []
    first, inside, fence = 0, 0, ""  # `inside`: how far the text of the list is indented
    for number, line in enumerate((*lines, ""), 1):
        mark = FENCE.match(line)
        indent = len(line) - len(line.lstrip())
        is_code = bool(fence) or bool(mark) or (not kept and indent >= inside + INDENT)
        is_text = bool(line.strip()) and not is_code and not HEADING.match(line) and line.lstrip()[0] != "|"
        item = ITEM.match(line) if is_text else None
        if kept and (item or not is_text):
            yield first, " ".join(kept)
            kept = []
        if mark and mark[1].startswith(fence):
            fence = "" if fence else mark[1]
        if is_text and not kept:
            first, inside = number, item.end() if item else min(inside, indent)
        if is_text:
            kept.append(line[item.end() :] if item else line.strip())


def plain(paragraph: str) -> str:
    """A paragraph without images, addresses and emphasis; code spans stay."""
    whole = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", _in_one_piece(paragraph))
    whole = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", whole)
    parts = re.split(r"(`[^`]*`)", whole)
    return "".join(part if part.startswith("`") else part.replace("*", "") for part in parts).replace(SPACE, " ")


def split(text: str) -> Iterator[str]:
    """The sentences of a paragraph without emphasis. One that ends with an abbreviation goes on."""
    whole, begin = _in_one_piece(text), 0
    for end in END.finditer(whole):
        last = whole[begin : end.end()].split()[-1].lstrip("\"'([")
        if not last.endswith(("..", *ABBREVIATIONS)):
            yield whole[begin : end.end()].strip().replace(SPACE, " ")
            begin = end.end()
    yield whole[begin:].strip().replace(SPACE, " ")


def _in_one_piece(text: str) -> str:
    """With no space inside a code span."""
    return CODE.sub(lambda code: code[0].replace(" ", SPACE), text)
