"""Read the licence of a source from its model card."""

import re
from pathlib import Path

from fewstep.export.sources import hub
from fewstep.export.sources.shipped import NAMES

CARD = "README.md"
OWN = "Apache-2.0"  # the shipped models have fewstep's licence
LIMIT = 2**20  # characters of a card that are searched
LONGEST = 200  # characters of a licence's name
FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)


def read_licence(source: str) -> str | None:
    """Return the licence that a source names; None if it names none.

    The card of a folder names it in its front matter: `license`, or `license_name` if that is "other".
    """
    if source in NAMES:
        return OWN
    folder = hub.fetch(source).folder if hub.is_name(source) else Path(source)
    card = folder / CARD
    if not card.is_file():
        return None
    front = FRONT.search(card.read_text(errors="replace")[:LIMIT])
    fields = dict(re.findall(r"^(license|license_name):[ \t]*(\S.*?)[ \t]*$", front[1] if front else "", re.MULTILINE))
    named = fields.get("license_name") if fields.get("license") == "other" else fields.get("license")
    stripped = (named or fields.get("license", "")).strip("\"'")[:LONGEST]
    return stripped or None
