"""A contender that is timed in this process, where nobody reads the times: others take seconds to start."""

from contextlib import AbstractContextManager
from time import perf_counter

from fewstep.measure.speed.contender_process import Opener

CALLS = 2


class TimedHere(AbstractContextManager["TimedHere"]):
    """Has the interface of `TimedProcess` that `whole_call` uses."""

    def __init__(self, name: str, opener: Opener) -> None:
        self.name, self._calls = name, opener()

    def __exit__(self, *exception: object) -> None:
        pass

    def wall_times(self, seconds: float | None = None, call: str = "") -> list[float]:
        """Return the seconds of CALLS calls."""
        walls = list[float]()
        for _ in range(CALLS):
            start = perf_counter()
            self._calls[call]()
            walls.append(perf_counter() - start)
        return walls
