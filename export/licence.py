"""Read the licence of a source from its model card."""

import re
from pathlib import Path

from fewstep.export.sources import hub
from fewstep.export.sources.card import read_front_matter
from fewstep.export.sources.shipped import NAMES
from fewstep.runtime.hub import is_name

OWN = "Apache-2.0"  # the shipped models have fewstep's licence
LONGEST = 200  # characters of a licence's name


def read_licence(source: str) -> str | None:
    """Return the licence that a source names; None if it names none.

    The card of a folder names it in its front matter: `license`, or `license_name` if that is "other".
    """
    if source in NAMES:
        return OWN
    folder = hub.fetch(source).folder if is_name(source) else Path(source)
    front = read_front_matter(folder)
    fields = dict(re.findall(r"^(license|license_name):[ \t]*(\S.*?)[ \t]*$", front, re.MULTILINE))
    named = fields.get("license_name") if fields.get("license") == "other" else fields.get("license")
    stripped = (named or fields.get("license", "")).strip("\"'")[:LONGEST]
    return stripped or None
