"""A job for worker processes, in a module with few imports, since each of these processes imports it."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.plans.errors import UserError


class TwoArguments(Exception):
    """An error that is pickled but cannot be unpickled, so that only its message arrives."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


@dataclass(frozen=True)
class Square:
    """Items are numbers, or another command for the process."""

    folder: str

    def open(self, threads: int) -> Callable[[Any], Any]:
        def run(item: Any) -> Any:
            if item == "fail":
                raise UserError("this fails", "do not")
            if item == "die" or (item == "die once" and not os.path.exists(f"{self.folder}/died")):
                Path(self.folder, "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "lock":
                return threading.Lock()  # which no pickle holds
            if item == "raise":
                raise TwoArguments("of two", "arguments")
            os.write(1, b"what libraries print is no answer")
            return (0 if isinstance(item, str) else item**2, threads, os.getpid())

        return run
