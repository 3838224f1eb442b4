"""Sizes of memory as text."""

from fewstep.plans.errors import UserError

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
EXAMPLE = "write a number with its unit, as 2GB or 800MB"


def parse_bytes(text: str) -> int:
    """Return the bytes of a text such as "2GB", "1.5 GiB" or "800MB". Raises UserError for any other text."""
    number, unit = text.strip().rstrip("BbIiGgMmKk"), text.strip()
    unit = unit[len(number) :].upper()
    try:
        size = float(number) * UNITS[unit]
    except (KeyError, ValueError) as error:
        raise UserError(f"--memory {text!r} is not a size", EXAMPLE) from error
    if not 0 < size < 2**63:
        raise UserError(f"--memory {text!r} is not a size", EXAMPLE)
    return int(size)


def format_bytes(size: int) -> str:
    """Return a size in MB or GB."""
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"
