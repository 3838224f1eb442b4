"""The front matter of a model card, README.md in a folder."""

import re
from pathlib import Path

CARD = "README.md"
LIMIT = 2**20  # characters of a card that are searched
FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
TAGS = re.compile(r"^tags:[ \t]*(?:\[(.*?)\]|((?:\n[ \t]*-[^\n]*)+))", re.DOTALL | re.MULTILINE)


def read_front_matter(folder: Path) -> str:
    """Return the front matter of the card in a folder, or "" without one."""
    card = folder / CARD
    if not card.is_file():
        return ""
    front = FRONT.search(card.read_text(errors="replace")[:LIMIT])
    return front[1] if front else ""


def read_tags(folder: Path) -> list[str]:
    """Return the tags of the card in a folder."""
    match = TAGS.search(read_front_matter(folder))
    if match is None:
        return []
    listed = match[1].split(",") if match[1] is not None else re.findall(r"^[ \t]*-(.*)$", match[2], re.MULTILINE)
    return [tag.strip().strip("\"'") for tag in listed if tag.strip()]
