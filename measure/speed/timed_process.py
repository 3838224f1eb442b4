"""Contenders that take turns, each in a process of its own.

Separate processes, because sessions in one process share an allocator, and are no program that a user runs; turns,
because a machine's clock, heat and neighbours drift over seconds. Only one contender runs at a time, and the others
sleep.
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

TURN_SECONDS = 0.12  # seconds


class ContenderDied(UserError):
    """The process of a contender ended, or was killed."""


class TimedProcess(AbstractContextManager["TimedProcess"]):
    """A contender in its process, which ends with the `with` block or with `close`.

    opener: a function of a module, with its arguments (`functools.partial`), that returns calls by name. It is called
        in that process; `load` is the seconds that it takes.

    UserError where the contender cannot be opened or a call of it fails, ContenderDied where its process does;
    `has_failed` says which of two it was.
    """

    def __init__(self, name: str, opener: Opener) -> None:
        self.name, self._is_open, self.has_failed = name, True, False
        try:
            self._child = Child(name=name)
        except OSError as error:
            fix = "check the room for temporary files and the limit of processes"
            raise UserError(f"{name} gets no process ({error.strerror or error})", fix) from error
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

    def run_turn(self, seconds: float = TURN_SECONDS, call: str = "") -> list[Seconds]:
        """A turn: times of calls in a row, for so many seconds."""
        times: list[Seconds] = self._ask(contender_process.run_turn, call, seconds)
        return times

    def wall_times(self, seconds: float = TURN_SECONDS, call: str = "") -> list[float]:
        """A turn: seconds of its calls by the clock."""
        return [wall for wall, _ in self.run_turn(seconds, call)]

    def median_milliseconds(self, call: str = "") -> float:
        """A turn of TURN_SECONDS: the median of its calls, by the clock."""
        return 1000 * median(self.wall_times(call=call))

    def run_call(self, call: str = "") -> Any:
        """The result of a call."""
        return self._ask(contender_process.run_call, call)

    def peak_mib(self) -> float:
        """The most memory that its process has had so far; 0: unknown."""
        most: int | None = self._ask(peak_bytes)
        return (most or 0) / 2**20

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            is_done, answer = self._child.ask(function, *arguments)
        except (EOFError, OSError):
            self._is_open, self.has_failed = False, True
            raise ContenderDied(f"the process of {self.name} {self._child.end()}", "run it alone to see more") from None
        if is_done:
            return answer
        self.has_failed = True
        if isinstance(answer, UserError):
            raise answer
        if isinstance(answer, MemoryError):
            raise UserError(f"{self.name} lacks memory", "end other programs, or give smaller batches") from answer
        raise UserError(f"{self.name} failed: {first_line(answer)}", "run it alone to see more") from answer
