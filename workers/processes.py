"""Workers that are processes of this machine, each for one item at a time. One that dies is replaced."""

import json
import logging
import pickle
import select
import subprocess
import sys
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryFile
from threading import Thread
from types import TracebackType
from typing import IO, Any

from fewstep.plans.errors import UserError
from fewstep.workers.job import Done, Order, Refusal, do_kept, keep
from fewstep.workers.process import received, send

LOG = logging.getLogger("fewstep")
PROCESS = Path(__file__).with_name("process.py")
TRIES = 3  # of one item, whose worker died
PATIENCE = 120.0  # seconds of one item until a line names its worker; then twice as long, and so on
ENDING = 5.0  # seconds that a worker has to end when it is asked to

Answer = Done[Any] | Refusal
Call = tuple["Future[Answer]", Order[Any, Any], Any]


class Processes:
    """Up to `count` workers, each with `threads`: the number of workers changes no sum. They start with their first
    items, and end with the `with` block."""

    def __init__(self, count: int, threads: int = 1, patience: float = PATIENCE) -> None:
        self.count = count
        self.threads = threads
        self._patience = patience
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._children: set[_Child] = set()
        self._is_open = True
        self._servers: list[Thread] = []

    def submit(self, order: Order[Any, Any], item: Any) -> "Future[Answer]":
        if len(self._servers) < self.count:
            self._start_server()
        answer: Future[Answer] = Future()
        self._calls.put((answer, order, item))
        return answer

    def deliver(self, order: Order[Any, Any]) -> None:
        """UserError: workers see this process's files and have their orders, so a missing bundle was changed."""
        raise UserError(f"{order.job.bundle.path} was changed meanwhile", "run the command again")

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        try:
            while (call := self._calls.get_nowait()) is not None:
                call[0].cancel()
        except Empty:
            pass
        for child in tuple(self._children):
            child.kill()
        for _ in self._servers:
            self._calls.put(None)
        for server in self._servers:
            server.join()

    def _start_server(self) -> None:
        """Start one more thread that asks a worker. A machine that starts no more has fewer workers."""
        server = Thread(target=self._serve, daemon=True)
        try:
            server.start()
        except RuntimeError as error:
            if not self._servers:
                raise UserError(f"no worker starts ({error})", "check the limits of threads and memory") from None
            what = "this machine starts no more threads than for %d of %d workers, which do all the work"
            LOG.warning(what, len(self._servers), self.count)
            self.count = len(self._servers)
            return
        self._servers.append(server)

    def _serve(self) -> None:
        """Serve calls with one worker, one after the other."""
        child: _Child | None = None
        while (call := self._calls.get()) is not None:
            answer, order, item = call
            if not self._is_open:  # `__exit__` takes calls from the same queue
                answer.cancel()
            elif answer.set_running_or_notify_cancel():
                child = self._answered(answer, order, item, child)
        if child is not None:
            self._end(child)

    def _answered(
        self, answer: "Future[Answer]", order: Order[Any, Any], item: Any, child: "_Child | None"
    ) -> "_Child | None":
        """Answer a call, whatever happens: nobody else would. Returns the process that is ready for the next call."""
        why = ""
        for _ in range(TRIES):
            if not self._is_open:
                break
            try:
                if child is None:
                    child = _started(self._patience)
                    self._children.add(child)
                is_done, result = child.ask(order, item)
            except Exception as error:
                if child is None or not isinstance(error, EOFError | OSError):
                    answer.set_exception(error)
                    if child is not None:  # it may be in the midst of a message
                        self._end(child)
                    return None
                why, child = self._end(child), None
                if self._is_open:
                    LOG.warning("a worker %s: another one takes its place, and what it was doing", why)
                continue
            if is_done:
                answer.set_result(result)
            else:
                answer.set_exception(result)
            return child
        fix = "give fewer workers, if memory is short; else do without --workers to see the error"
        answer.set_exception(UserError(f"a worker {why}, {TRIES} times at the same place", fix))
        return child

    def _end(self, child: "_Child") -> str:
        self._children.discard(child)
        return child.end()


def _started(patience: float) -> "_Child":
    """A new worker. UserError where the machine starts none."""
    try:
        return _Child(patience)
    except OSError as error:
        fix = "give fewer workers, or check the room for temporary files and the limit of processes"
        raise UserError(f"a worker does not start ({error.strerror or error})", fix) from error


class _Child:
    """A running `process.py`."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        command, pipe = [sys.executable, str(PROCESS), json.dumps(sys.path)], subprocess.PIPE
        self._kept: str | None = None  # the name of the order that it keeps
        self._errors = TemporaryFile()  # noqa: SIM115 - closed by `end`; no pipe, for nobody reads it meanwhile
        # a session of its own: an interrupt on the terminal reaches the parent alone, which ends its children
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self._errors, start_new_session=True
            )
        except BaseException:
            self._errors.close()
            raise

    def ask(self, order: Order[Any, Any], item: Any) -> tuple[bool, Any]:
        """The result of `do`, or its error. The order is sent before its first item. EOFError or OSError if the process
        died."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if self._kept != order.name:
            send(self._process.stdin, (keep, (order,)))
            is_kept, error = pickle.loads(received(self._process.stdout))
            if not is_kept:
                return False, error
            self._kept = order.name
        send(self._process.stdin, (do_kept, (order.name, item)))
        self._wait(self._process.stdout)
        answer: tuple[bool, Any] = pickle.loads(received(self._process.stdout))
        return answer

    def _wait(self, stream: IO[bytes]) -> None:
        """Wait for an answer, with a line now and then. Windows cannot wait for a pipe with a limit."""
        if not hasattr(select, "poll"):
            return
        ready, patience = select.poll(), self._patience
        ready.register(stream, select.POLLIN)
        while not ready.poll(1000 * patience):
            LOG.warning(
                "worker %d is at one item for %.0f seconds; if it hangs, end it (kill -9 %d): another takes its place",
                *(self._process.pid, patience, self._process.pid),
            )
            patience *= 2

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> str:
        """End it, and say how it ended."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it is dead already
            self._process.stdin.close()
        try:
            how = self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            how = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        self._errors.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return f"was killed (signal {-how})" if how < 0 else f"ended ({said[-1] if said else f'exit code {how}'})"
