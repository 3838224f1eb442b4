"""What benchmarks/claims/claims.py found: a line for each system, and the page of all of them."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.bar import Bar
from benchmarks.markdown import table
from benchmarks.page import WIDTH
from fewstep.evaluation.speed.machine import this_machine
from fewstep.rollouts.metrics import Floats

HOW = (
    "Each system stands beside the plain way at equal evaluations of the network, and at equal milliseconds: there the"
    " plain way gets more evaluations, or fewer. The larger figure is better. A gain has the deviation of its mean"
    " behind it, over the unit of the line. Seeds are independent. Pictures that are compared with each other are not,"
    " and their deviation is too small. A system pays if both gains are above twice their deviations. Cells are empty"
    " where the plain way has one number of evaluations; one gain decides there. log p(class) is a classifier's."
)


@dataclass(frozen=True)
class Gain:
    """The mean of figures over that of others, and the deviation of the difference: paired where seeds are the same."""

    mean: float
    deviation: float

    @property
    def is_sure(self) -> bool:
        return self.mean > 0 and self.mean > 2 * self.deviation


def gain(figures: Floats, others: Floats) -> Gain:
    mean = float(figures.mean() - others.mean())
    if len(figures) == len(others):
        return Gain(mean, _of_mean(figures - others))
    return Gain(mean, math.hypot(_of_mean(figures), _of_mean(others)))


def _of_mean(figures: Floats) -> float:
    return float(figures.std(ddof=1) / len(figures) ** 0.5) if len(figures) > 1 else 0.0


@dataclass(frozen=True)
class Longer:
    """The plain way at the evaluations that take as long as ours, and what ours gains on it."""

    evaluations: int
    ms: float
    figure: float
    gain: Gain


@dataclass(frozen=True)
class Line:
    """What was found. Milliseconds are of the timed seeds together.

    unit: of which there is a figure each.
    at_equal_time: None where the plain way has one number of evaluations.
    """

    model: str
    system: str
    claim: str
    figure: str
    evaluations: int
    ours: float
    plain: float
    gain: Gain
    unit: str
    ours_ms: float
    plain_ms: float
    at_equal_time: Longer | None
    is_steady: bool = True

    @property
    def pays(self) -> bool:
        return self.gain.is_sure and (self.at_equal_time is None or self.at_equal_time.gain.is_sure)

    @property
    def verdict(self) -> str:
        return ("pays" if self.pays else "does not pay") + ("" if self.is_steady else ", on an unsteady machine")

    def __str__(self) -> str:
        longer, at_equal, ms = self.at_equal_time, "", f"{self.ours_ms:.0f} and {self.plain_ms:.0f} ms"
        if longer is not None:
            at_equal = (
                f", {longer.figure:.3f} (+-{longer.gain.deviation:.3f}) at equal time, {longer.evaluations} evaluations"
            )
            ms = f"{self.ours_ms:.0f}, {self.plain_ms:.0f} and {longer.ms:.0f} ms"
        return (
            f"{self.model:<14}{self.system:<23}{self.figure}: {self.ours:.3f}, plain {self.plain:.3f} (+-"
            f"{self.gain.deviation:.3f} by {self.unit}) at {self.evaluations} evaluations{at_equal} ({ms}): "
            f"{self.verdict}. Claim: {self.claim}"
        )


def written(lines: Sequence[Line], reasons: Mapping[str, str], seeds: int, streams: Sequence[Bar]) -> str:
    """The page, from what was found."""
    machine = this_machine()
    features = ", ".join(machine.int8_instructions)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items()))
    run_on = f"Machine: {machine.processor}, {machine.cores} cores, {features}; {versions}. Seeds: {seeds}."
    tables = "\n\n".join(
        f"## {model}\n\n{_lines(each for each in lines if each.model == model)}"
        for model in dict.fromkeys(line.model for line in lines)
    )
    costs = table(
        ("a stream", "found", "bar"),
        [
            (each.name, f"{each.found:.2f} {each.unit}".strip(), f"{each.bar:.2f} {each.unit}".strip())
            for each in streams
        ],
    )
    return f"""# Claims of published systems

`benchmarks/claims/claims.py --page` writes this page. [compose.md](../compose.md) has the systems.

{textwrap.fill(run_on, WIDTH)}

{textwrap.fill(HOW, WIDTH)}

{tables}

## Streams

`benchmarks/claims/stream_cost.py` prints this table: the host's time beside the network, and what
stays.

{costs}

## Not measured

{table(("system", "reason"), list(reasons.items()))}
"""


def _lines(lines: Iterable[Line]) -> str:
    header = ("system", "claim", "figure", "ours", "plain, as many evaluations", "gain", "plain, as long", "gain",
              "a figure for each", "verdict")  # fmt: skip
    return table(
        header,
        [
            (
                line.system, line.claim, line.figure,
                f"{line.ours:.3f}, {line.ours_ms:.0f} ms",
                f"{line.plain:.3f}, {line.evaluations} in {line.plain_ms:.0f} ms",
                _gain(line.gain),
                *_longer(line.at_equal_time),
                line.unit,
                line.verdict,
            )
            for line in lines
        ],
    )  # fmt: skip


def _longer(longer: Longer | None) -> tuple[str, str]:
    if longer is None:
        return "", ""
    return f"{longer.figure:.3f}, {longer.evaluations} in {longer.ms:.0f} ms", _gain(longer.gain)


def _gain(gained: Gain) -> str:
    return f"{gained.mean:+.3f} ± {gained.deviation:.3f}"
