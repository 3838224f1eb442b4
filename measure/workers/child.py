"""A child process that runs calls for its parent in order. A call is a module-level function with its arguments."""

import json
import logging
import pickle
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from fewstep.measure.workers.worker_process import receive, send

LOG = logging.getLogger("fewstep")
PROCESS = Path(__file__).with_name("worker_process.py")
PATIENCE = 120.0  # seconds of one call after which a warning names the process; repeated after twice as many, and so on
ENDING = 5.0  # seconds that a process has to exit


class Child:
    """A running `worker_process.py`. Raises OSError if the process cannot be started.

    if_ended: what happens if the user ends the process; it is appended to the warning about a slow process.
    """

    def __init__(self, patience: float = PATIENCE, name: str = "worker", if_ended: str = "") -> None:
        self._patience, self._name, self._if_ended = patience, name, if_ended
        command, pipe = [sys.executable, str(PROCESS), json.dumps(sys.path)], subprocess.PIPE
        self._errors = TemporaryFile()  # noqa: SIM115 - closed by `end`; not a pipe, since nobody reads it meanwhile
        # a separate session: an interrupt on the terminal reaches only the parent, which ends its children
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self._errors, start_new_session=True
            )
        except BaseException:
            self._errors.close()
            raise

    def ask(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> tuple[bool, Any]:
        """Call a function in the child. Return True and its result, or False and its error.

        Raises EOFError or OSError if the process died.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        send(self._process.stdin, (function, arguments, named))
        self._wait(self._process.stdout)
        answer: tuple[bool, Any] = pickle.loads(receive(self._process.stdout))
        return answer

    def _wait(self, stream: IO[bytes]) -> None:
        """Wait for an answer, and log a warning from time to time. Windows cannot wait for a pipe with a timeout, so
        nothing is logged there."""
        if not hasattr(select, "poll"):
            return
        ready, waited = select.poll(), 0.0
        ready.register(stream, select.POLLIN)
        while not ready.poll(1000 * (waited or self._patience)):
            waited = 2 * waited or self._patience
            LOG.warning(
                "%s, process %d, has been in one call for %.0f seconds: it is slow, or hangs; kill -9 %d ends it%s",
                *(self._name, self._process.pid, waited, self._process.pid, self._if_ended),
            )

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> str:
        """End the process. Return a description of how it ended, such as its exit status."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it may be dead already
            self._process.stdin.close()
        try:
            status = self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self._errors.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        reason = lines[-1] if lines else f"exit code {status}"
        return f"was killed (signal {-status})" if status < 0 else f"ended ({reason})"
