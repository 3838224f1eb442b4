"""Jobs. A job is opened once in each process, and runs item by item. Results are returned in the order of the items.

Items are independent, so results do not depend on which process runs them. Jobs and items are pickled between a command
and the processes that it started. Merged results depend neither on the number of workers nor on their speed. Only a few
more items than workers are in flight. Results that arrive early wait, so memory depends on the number of workers, not
of items.
"""

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol, TypeVar

from fewstep.plans.errors import UserError

ITEMS_AHEAD = 2  # items in flight, for each worker

Item = TypeVar("Item")
Result = TypeVar("Result")
Taken = TypeVar("Taken", contravariant=True)
Made = TypeVar("Made", covariant=True)


class Job(Protocol[Taken, Made]):
    """A small picklable value, since it is sent with each item. `open` returns the function that runs its items, each
    with `threads` threads, or one thread for each core if it is 0."""

    def open(self, threads: int) -> Callable[[Taken], Made]: ...


_OPEN: dict[tuple[bytes, int], Callable[[Any], Any]] = {}  # the one job that is open in this process
_LOCK = Lock()  # guards it, since a caller's workers may be threads


def run_item(job: bytes, threads: int, item: Any) -> Any:
    """Run one item of a pickled job in a worker process. The job is opened for its first item, and stays open until an
    item of another job arrives."""
    with _LOCK:
        if (job, threads) not in _OPEN:
            _OPEN.clear()  # two large networks need too much memory
            _OPEN[job, threads] = pickle.loads(job).open(threads)
        run = _OPEN[job, threads]
    return run(item)


@dataclass(frozen=True)
class Workers:
    """An executor that runs items: processes of this machine or of a cluster, or an executor of the caller.

    count: the number of items that run at once. threads: the number of threads per item, 1 or more. The order in which
        a backend sums may depend on it.
    """

    executor: Executor
    count: int
    threads: int = 1


def map_in_order(job: Job[Item, Result], items: Iterable[Item], workers: Workers) -> Iterator[Result]:
    """Yield the result of each item. Errors of the job are raised unchanged. Raises UserError if workers die at an item
    every time."""
    futures: deque[Future[Any]] = deque()
    content = pickle.dumps(job)
    try:
        for item in items:
            futures.append(workers.executor.submit(run_item, content, workers.threads, item))
            if len(futures) >= ITEMS_AHEAD * workers.count:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    except (BrokenExecutor, CancelledError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"the workers have ended ({reason})", "start new ones, and run the command again") from error
    finally:
        for answer in futures:
            answer.cancel()
