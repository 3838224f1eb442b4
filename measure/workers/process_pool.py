"""An executor with worker processes on this machine, each with one call at a time. Workers that die are replaced."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import local
from typing import Any

from fewstep.measure.workers.child import PATIENCE, Child
from fewstep.plans.errors import UserError

LOG = logging.getLogger("fewstep")
TRIES = 3  # attempts at a call whose worker died


class ProcessPool(ThreadPoolExecutor):
    """Up to `count` workers, each with `threads` threads, so that sums do not depend on the number of workers. For each
    worker, a thread of this process waits.

    Workers start with their first calls, and end with the `with` block, whatever they are doing. (The standard process
    pool breaks as a whole if one of them dies.) Raises UserError for fewer than one worker.
    """

    def __init__(self, count: int, threads: int = 1, patience: float = PATIENCE) -> None:
        if count < 1:
            raise UserError(f"a pool cannot have {count} processes", "give 1 or more")
        super().__init__(count)
        self.count, self.threads, self._patience = count, threads, patience
        self._children: set[Child] = set()
        self._local, self._is_open = local(), True  # the worker of each thread

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
        """Let a worker call a module-level function. Raises UserError if no thread can be started to wait for it."""
        try:
            return super().submit(self._call, function, *arguments, **named)
        except RuntimeError as error:
            raise UserError(
                f"no worker starts ({error})", "give fewer workers, or check the limits of memory"
            ) from None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End all workers. Calls that have not begun are cancelled."""
        super().shutdown(wait=False, cancel_futures=True)  # closed first, since then threads refuse any further calls
        self._is_open = False
        for child in tuple(self._children):
            child.kill()
        super().shutdown(wait=wait)
        for child in tuple(self._children):
            self._end(child)

    def _call(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        """Run a call in this thread's worker, or in a replacement if the worker dies of it."""
        why = "ended"
        for _ in range(TRIES if self._is_open else 0):
            worker = self._worker()
            try:
                is_done, result = worker.ask(function, *arguments, **named)
            except (EOFError, OSError):
                why = self._end(worker)
                if self._is_open:
                    LOG.warning("a worker %s: a new worker repeats its call", why)
                continue
            except Exception:  # the worker may have been interrupted in the middle of a message
                self._end(worker)
                raise
            if is_done:
                return result
            raise result
        fix = "give fewer workers, if memory is short; otherwise run without --workers to see the error"
        raise UserError(f"a worker {why}, {TRIES} times in the same call", fix)

    def _worker(self) -> Child:
        """Return the worker of this thread. Raises UserError if none can be started."""
        worker: Child | None = getattr(self._local, "worker", None)
        if worker is None or worker not in self._children:
            try:
                worker = Child(self._patience, if_ended=": another takes its place")
            except OSError as error:
                fix = "give fewer workers, or check the space for temporary files and the limit of processes"
                raise UserError(f"a worker does not start ({error.strerror or error})", fix) from error
            self._local.worker = worker
            self._children.add(worker)
        return worker

    def _end(self, child: Child) -> str:
        self._children.discard(child)
        return child.end()
