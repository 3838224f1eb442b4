"""A job, which is opened once in each process and done item by item, and its results in the order of the items.

Items are independent, so that results do not follow from who does them. Jobs and items travel as pickles, between
a command and the processes that it started. Merged results depend neither on the number of workers, nor on their speed.
A few items more than there are workers are under way. Results that come early wait, so memory depends on the workers,
not on the items.
"""

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol, TypeVar

from fewstep.plans.errors import UserError

ITEMS_AHEAD = 2  # items under way, for each worker

Item = TypeVar("Item")
Result = TypeVar("Result")
Taken = TypeVar("Taken", contravariant=True)
Made = TypeVar("Made", covariant=True)


class Job(Protocol[Taken, Made]):
    """A small value that can be pickled, since it travels with each item. `open` makes the function that does its
    items, with `threads` for each, or one for each core if 0."""

    def open(self, threads: int) -> Callable[[Taken], Made]: ...


_OPEN: dict[tuple[bytes, int], Callable[[Any], Any]] = {}  # the one job that this process has open
_LOCK = Lock()  # a caller's workers may be threads, which share what is open


def run_item(job: bytes, threads: int, item: Any) -> Any:
    """One item of a pickled job, in a worker. The job is opened for its first item, and stays open until another job
    comes."""
    with _LOCK:
        if (job, threads) not in _OPEN:
            _OPEN.clear()  # two large networks are too many
            _OPEN[job, threads] = pickle.loads(job).open(threads)
        run = _OPEN[job, threads]
    return run(item)


@dataclass(frozen=True)
class Workers:
    """An executor that does items: processes of this machine, a cluster's, or what a caller has.

    count: items done at once. threads: of one item, 1 or more; with other threads a backend may add in another order.
    """

    executor: Executor
    count: int
    threads: int = 1


def map_in_order(job: Job[Item, Result], items: Iterable[Item], workers: Workers) -> Iterator[Result]:
    """The result of each item. UserError where workers die of an item each time. Errors of the job itself are raised as
    they are."""
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
        raise UserError(f"the workers are gone ({reason})", "start them, and run the command again") from error
    finally:
        for answer in futures:
            answer.cancel()
