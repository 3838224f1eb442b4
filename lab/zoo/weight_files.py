"""Whether trained weights are in the checkout: large ones are in the history alone."""

from pathlib import Path

from fewstep.plans.errors import UserError

FETCH = "python -m benchmarks.fetch_weights takes them out of the history of a clone"


def check_weights(path: Path) -> Path:
    """The file, if it is there. UserError otherwise."""
    if not path.is_file():
        raise UserError(f"there are no weights {path.name} in {path.parent}", FETCH)
    return path
