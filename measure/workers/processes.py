"""An executor whose workers are processes of this machine, each for one call at a time. One that dies is replaced."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import local
from typing import Any

from fewstep.measure.workers.child import PATIENCE, Child
from fewstep.measure.workers.job import do, do_kept, keep
from fewstep.plans.errors import UserError

LOG = logging.getLogger("fewstep")
TRIES = 3  # of one call, whose worker died


class Processes(ThreadPoolExecutor):
    """Up to `count` workers, each with `threads`: the number of workers changes no sum. A thread waits for each.

    They start with their first calls, and end with the `with` block, whatever they are doing. The standard pool of
    processes breaks as a whole when one of them dies. UserError for less than one.
    """

    def __init__(self, count: int, threads: int = 1, patience: float = PATIENCE) -> None:
        if count < 1:
            raise UserError(f"{count} processes", "give 1 or more")
        super().__init__(count)
        self.count, self.threads, self._patience = count, threads, patience
        self._children: set[_Worker] = set()
        self._local, self._is_open = local(), True  # the worker of each thread

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
        """Let a worker call a function of a module. UserError where the machine starts no thread to wait for it."""
        try:
            return super().submit(self._called, function, *arguments, **named)
        except RuntimeError as error:
            raise UserError(
                f"no worker starts ({error})", "give fewer workers, or check the limits of memory"
            ) from None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End all workers. Calls that have not begun are cancelled."""
        super().shutdown(wait=False, cancel_futures=True)  # first: a thread fails all that it takes once it is closed
        self._is_open = False
        for child in tuple(self._children):
            child.kill()
        super().shutdown(wait=wait)
        for child in tuple(self._children):
            self._end(child)

    def _called(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A call by this thread's worker, or by another one where it dies of it."""
        why = "ended"
        for _ in range(TRIES if self._is_open else 0):
            try:
                is_done, result = self._worker().call(function, *arguments)
            except (EOFError, OSError) as error:
                if not hasattr(self._local, "worker"):
                    fix = "give fewer workers, or check the room for temporary files and the limit of processes"
                    reason = getattr(error, "strerror", None) or error
                    raise UserError(f"a worker does not start ({reason})", fix) from error
                why = self._end(self._local.worker)
                del self._local.worker
                if self._is_open:
                    LOG.warning("a worker %s: another one takes its place, and what it was doing", why)
                continue
            except Exception:  # it may be in the midst of a message
                self._end(self._local.worker)
                del self._local.worker
                raise
            if is_done:
                return result
            raise result
        fix = "give fewer workers, if memory is short; else do without --workers to see the error"
        raise UserError(f"a worker {why}, {TRIES} times at the same place", fix)

    def _worker(self) -> "_Worker":
        """The worker of this thread. OSError where the machine starts none."""
        if not hasattr(self._local, "worker"):
            self._local.worker = _Worker(self._patience)
            self._children.add(self._local.worker)
        worker: _Worker = self._local.worker
        return worker

    def _end(self, child: "_Worker") -> str:
        self._children.discard(child)
        return child.end()


class _Worker(Child):
    """A process that keeps the order of its last item: it may hold tables and samples, and is sent once."""

    if_ended = ": another takes its place"

    def __init__(self, patience: float) -> None:
        super().__init__(patience)
        self._order_name: str | None = None  # of the order that it keeps

    def call(self, function: Callable[..., Any], *arguments: Any) -> tuple[bool, Any]:
        """The answer of `ask` to a call, of which an order is kept for the next."""
        if function is not do:
            return self.ask(function, *arguments)
        order, item = arguments
        if self._order_name != order.name:
            is_kept, error = self.ask(keep, order)
            if not is_kept:
                return False, error
            self._order_name = order.name
        return self.ask(do_kept, item)
