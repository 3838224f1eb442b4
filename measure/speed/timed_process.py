"""Time contenders in turns, each in a separate process.

Processes are separate because sessions in one process share an allocator, unlike in a program that a user runs.
Contenders take turns because a machine's clock, temperature and load drift over seconds. Only one contender runs at a
time, and the others sleep.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median
from typing import Any

from fewstep.measure.speed import contender_process
from fewstep.measure.speed.contender_process import Opener, Seconds
from fewstep.measure.workers.child import Child
from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.machine.memory import peak_bytes
from fewstep.runtime.machine.memory_pages import release_free_memory

TURN_SECONDS = 0.12


class ContenderDied(UserError):
    """The process of a contender ended, was killed, or could not start."""


class TimedProcess(AbstractContextManager["TimedProcess"]):
    """A process that runs one contender. It ends with the `with` block or with `close`.

    opener: a module-level function with its arguments (`functools.partial`), which returns calls by name. It is called
        in that process; `load` is its duration in seconds.

    Raises UserError if the contender cannot be opened or a call of it fails, and ContenderDied if its process ends or
    cannot start. With two contenders, `has_failed` says whether it was this one that failed.
    """

    def __init__(self, name: str, opener: Opener) -> None:
        self.name, self._is_open, self.has_failed = name, True, False
        release_free_memory()  # what a calibration freed would stay here, next to the weights of that process
        try:
            self._child = Child(name=name)
        except OSError as error:
            fix = "check the space for temporary files and the limit of processes"
            raise ContenderDied(f"{name}: no process could be started ({error.strerror or error})", fix) from error
        try:
            self.load: float = self._ask(contender_process.open_calls, opener)
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._child.kill()
            self._child.end()

    def run_turn(self, seconds: float | None = None, call: str = "") -> list[Seconds]:
        """Run a turn of about `seconds` seconds, by default TURN_SECONDS, and return the times of its calls."""
        given = TURN_SECONDS if seconds is None else seconds
        times: list[Seconds] = self._ask(contender_process.run_turn, call, given, contender_process.WARM_UP)
        return times

    def wall_times(self, seconds: float | None = None, call: str = "") -> list[float]:
        """Run a turn, and return the wall times of its calls in seconds."""
        return [wall for wall, _ in self.run_turn(seconds, call)]

    def median_milliseconds(self, call: str = "") -> float:
        """Run a turn of TURN_SECONDS, and return the median wall time of its calls."""
        return 1000 * median(self.wall_times(call=call))

    def run_call(self, call: str = "") -> Any:
        """Return the result of a call."""
        return self._ask(contender_process.run_call, call)

    def peak_mib(self) -> float:
        """Return the peak memory of the process so far; 0 if unknown."""
        most: int | None = self._ask(peak_bytes)
        return (most or 0) / 2**20

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            is_done, answer = self._child.ask(function, *arguments)
        except (EOFError, OSError):
            self._is_open, self.has_failed = False, True
            what, fix = f"the process of {self.name} {self._child.end()}", "run it alone to see the whole error"
            raise ContenderDied(what, fix) from None
        if is_done:
            return answer
        self.has_failed = True
        if isinstance(answer, UserError):
            raise answer
        if isinstance(answer, MemoryError):
            raise UserError(f"{self.name} ran out of memory", "end other programs, or give smaller batches") from answer
        raise UserError(f"{self.name} failed: {first_line(answer)}", "run it alone to see the whole error") from answer
