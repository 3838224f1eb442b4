"""What stands under the column of a range group: where on the way from noise to clean its steps are."""

from collections.abc import Iterable
from statistics import median
from typing import Protocol

AXIS = "lambda = log(alpha / sigma) of the steps in a range group, from noise to clean"


class InGroup(Protocol):
    """A step of a plan, or what was measured of one. Without `lam` it is at pure noise."""

    @property
    def lam(self) -> float | None: ...

    @property
    def group(self) -> int: ...


def heads(steps: Iterable[InGroup], groups: int) -> list[str]:
    """The median lambda of the steps in each group; its number where these steps have none there."""
    lams: dict[int, list[float | None]] = {}
    for step in steps:
        lams.setdefault(step.group, []).append(step.lam)
    return [_head(lams[group]) if group in lams else f"group {group}" for group in range(groups)]


def _head(lams: list[float | None]) -> str:
    finite = [lam for lam in lams if lam is not None]
    return f"{median(finite):.2f}" if len(finite) == len(lams) else "noise"
