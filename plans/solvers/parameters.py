"""Range checks for the parameters of solvers, which raise UserError."""

from fewstep.plans.errors import UserError


def check_share(name: str, value: float) -> None:
    """Raise UserError unless the value of a parameter is from 0 to 1."""
    if not 0 <= value <= 1:
        raise UserError(f"{name}={value:g} is not in 0 .. 1", f"give {name} from 0 to 1")


def check_count(name: str, value: int, most: int) -> None:
    """Check a parameter that is a count, from 0 to `most`."""
    if not 0 <= value <= most:
        raise UserError(f"{name}={value} is not in 0 .. {most}", f"give {name} from 0 to {most}")


def check_not_negative(name: str, value: float) -> None:
    if not value >= 0:
        raise UserError(f"{name}={value:g} is negative", f"give {name} of 0 or more")
