"""Parse how options name a LoRA file: FILE[:STRENGTH][@NETWORK]."""

import math
import os
from pathlib import Path

from fewstep.plans.errors import UserError
from fewstep.plans.names.network_name import split_network


def split_network_of_file(text: str) -> tuple[str, str | None]:
    """Split `FILE[:STRENGTH]@NETWORK` into the text before the "@" and the network, or None. The name of an existing
    file may contain an "@" itself."""
    return (text, None) if os.path.exists(text) else split_network(text)  # of any length


def split_strength(text: str, option: str) -> tuple[Path, float]:
    """Split `FILE[:STRENGTH]` into the file and the strength. The name itself may contain a colon."""
    name, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        strength = float(number)
    except ValueError:
        if not Path(name).exists():
            return Path(text), 1.0
        what = f"{option} {Path(name).name}:{number}: {number!r} is not a strength"
        raise UserError(what, "give a number, as in FILE:0.8, or only FILE for 1") from None
    if not math.isfinite(strength):
        raise UserError(f"{option} {Path(name).name}:{number} has no finite strength", "give a number, as in FILE:0.8")
    return Path(name), strength
