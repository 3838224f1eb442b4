"""Check whether trained weights are in the checkout. Large files are only in the history, or made by their recipe."""

from pathlib import Path

from fewstep.plans.errors import UserError

FETCH = (
    "python -m benchmarks.fetch_weights takes them out of the history of a clone; what it does not list is made by"
    " python -m lab.train and lab.model_card"
)


def check_weights(path: Path) -> Path:
    """Return the path if the file exists. Otherwise raises UserError."""
    if not path.is_file():
        raise UserError(f"there are no weights {path.name} in {path.parent}", FETCH)
    return path
