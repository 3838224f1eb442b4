"""Workers that are processes of this machine, each for one item at a time. One that dies is replaced."""

import logging
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any

from fewstep.measure.workers.child import PATIENCE, Child
from fewstep.measure.workers.job import Order, do_kept, keep
from fewstep.plans.errors import UserError

LOG = logging.getLogger("fewstep")
TRIES = 3  # of one item, whose worker died

Call = tuple["Future[Any]", Order[Any, Any], Any]


class Processes:
    """Up to `count` workers, each with `threads`: the number of workers changes no sum. They start with their first
    items, and end with the `with` block. UserError for less than one."""

    def __init__(self, count: int, threads: int = 1, patience: float = PATIENCE) -> None:
        if count < 1:
            raise UserError(f"{count} processes", "give 1 or more")
        self.count = count
        self.threads = threads
        self._patience = patience
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._children: set[_Worker] = set()
        self._is_open = True
        self._servers: list[Thread] = []

    def submit(self, order: Order[Any, Any], item: Any) -> "Future[Any]":
        if len(self._servers) < self.count:
            self._start_server()
        answer: Future[Any] = Future()
        self._calls.put((answer, order, item))
        return answer

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
        child: _Worker | None = None
        while (call := self._calls.get()) is not None:
            answer, order, item = call
            if not self._is_open:  # `__exit__` takes calls from the same queue
                answer.cancel()
            elif answer.set_running_or_notify_cancel():
                child = self._answered(answer, order, item, child)
        if child is not None:
            self._end(child)

    def _answered(
        self, answer: "Future[Any]", order: Order[Any, Any], item: Any, child: "_Worker | None"
    ) -> "_Worker | None":
        """Answer a call, whatever happens: nobody else would. Returns the process that is ready for the next call."""
        why = ""
        for _ in range(TRIES):
            if not self._is_open:
                break
            try:
                if child is None:
                    child = _started(self._patience)
                    self._children.add(child)
                is_done, result = child.do(order, item)
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

    def _end(self, child: "_Worker") -> str:
        self._children.discard(child)
        return child.end()


def _started(patience: float) -> "_Worker":
    """A new worker. UserError where the machine starts none."""
    try:
        return _Worker(patience)
    except OSError as error:
        fix = "give fewer workers, or check the room for temporary files and the limit of processes"
        raise UserError(f"a worker does not start ({error.strerror or error})", fix) from error


class _Worker(Child):
    """A process that does items."""

    if_ended = ": another takes its place"

    def __init__(self, patience: float) -> None:
        super().__init__(patience)
        self._kept: str | None = None  # the name of the order that it keeps

    def do(self, order: Order[Any, Any], item: Any) -> tuple[bool, Any]:
        """What `ask` says of `do`. The order is sent before its first item."""
        if self._kept != order.name:
            is_kept, error = self.ask(keep, order)
            if not is_kept:
                return False, error
            self._kept = order.name
        return self.ask(do_kept, item)
