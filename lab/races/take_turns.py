"""Run contenders in separate processes that take turns, and measure the wall time and the CPU time of each call.

CPU time depends little on other programs, so its ratios hold on a shared machine. It includes waiting threads of a
contender.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from statistics import median

from fewstep.measure.speed.contender_process import Call
from fewstep.measure.speed.timed_process import TimedProcess

Opener = partial[Call]  # a function of a module other than `__main__`, since it is sent to the process that calls it


@dataclass(frozen=True)
class Times:
    """Seconds of calls for each turn: each value is the median of a turn."""

    wall: tuple[float, ...]
    processor: tuple[float, ...]

    def against(self, other: "Times") -> tuple[float, float]:
        """Return the speed as a multiple of the other's, in wall time and in CPU time, as medians over turns."""
        walls = median(theirs / mine for mine, theirs in zip(self.wall, other.wall, strict=True))
        return walls, median(theirs / mine for mine, theirs in zip(self.processor, other.processor, strict=True))


def in_turns(openers: Mapping[str, Opener], rounds: int, seconds: float) -> dict[str, Times]:
    """Return each contender's times for `rounds` turns of about `seconds` each, with at least one call. Only one runs
    at a time."""
    with ExitStack() as stack:
        contenders = {
            name: stack.enter_context(TimedProcess(name, partial(_alone, opener))) for name, opener in openers.items()
        }
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in openers}
        for contender in contenders.values():
            contender.run_turn(0.0)  # warm-up
        for number in range(rounds):
            for name in list(openers)[:: 1 if number % 2 else -1]:
                wall, processor = zip(*contenders[name].run_turn(seconds), strict=True)
                turns[name].append((median(wall), median(processor)))
    return {name: Times(*(tuple(column) for column in zip(*turn, strict=True))) for name, turn in turns.items()}


def _alone(opener: Opener) -> dict[str, Call]:
    return {"": opener()}
