"""Contenders in processes of their own that take turns: the wall time and the processor's time of each call.

The processor's time depends little on other programs, so its ratios hold on a machine that is shared. Waiting threads
of a contender count too.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from statistics import median

from fewstep.measure.speed.contender_process import Call
from fewstep.measure.speed.timed_process import TimedProcess

Opener = partial[Call]  # of a function of a module that is not `__main__`: it travels to the process that calls it


@dataclass(frozen=True)
class Times:
    """Seconds of calls, by turn: each is the median of a turn."""

    wall: tuple[float, ...]
    processor: tuple[float, ...]

    def against(self, other: "Times") -> tuple[float, float]:
        """The speed as a multiple of the other: by wall time and by the processor's time, medians over turns."""
        walls = median(theirs / mine for mine, theirs in zip(self.wall, other.wall, strict=True))
        return walls, median(theirs / mine for mine, theirs in zip(self.processor, other.processor, strict=True))


def in_turns(openers: Mapping[str, Opener], rounds: int, seconds: float) -> dict[str, Times]:
    """Each contender's times: `rounds` turns of about `seconds` each, at least one call. Only one runs at a time."""
    with ExitStack() as stack:
        contenders = {
            name: stack.enter_context(TimedProcess(name, partial(_alone, opener))) for name, opener in openers.items()
        }
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in openers}
        for contender in contenders.values():
            contender.run_turn(0.0)  # warm
        for number in range(rounds):
            for name in list(openers)[:: 1 if number % 2 else -1]:
                wall, processor = zip(*contenders[name].run_turn(seconds), strict=True)
                turns[name].append((median(wall), median(processor)))
    return {name: Times(*(tuple(column) for column in zip(*each, strict=True))) for name, each in turns.items()}


def _alone(opener: Opener) -> dict[str, Call]:
    return {"": opener()}
