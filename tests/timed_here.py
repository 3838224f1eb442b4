"""A contender that is timed in this process, where nobody reads the times: others take seconds to start."""

from contextlib import AbstractContextManager
from time import perf_counter, process_time

from fewstep.measure.speed.contender_process import Opener, Seconds

CALLS = 2


class TimedHere(AbstractContextManager["TimedHere"]):
    """Has the interface of `TimedProcess` that `whole_call` uses."""

    def __init__(self, name: str, opener: Opener) -> None:
        self.name, self._calls = name, opener()

    def __exit__(self, *exception: object) -> None:
        pass

    def run_turn(self, seconds: float | None = None, call: str = "") -> list[Seconds]:
        """Return the seconds of CALLS calls."""
        times = list[Seconds]()
        for _ in range(CALLS):
            start, used = perf_counter(), process_time()
            self._calls[call]()
            times.append((perf_counter() - start, process_time() - used))
        return times

    def wall_times(self, seconds: float | None = None, call: str = "") -> list[float]:
        return [wall for wall, _ in self.run_turn(seconds, call)]
