"""A job: work that is opened once in each process, and then done item by item.

Items are independent, so that results do not follow from who does them. Jobs and items travel as pickles, between
a command and the processes that it started.
"""

import pickle
from collections.abc import Callable
from threading import Lock
from typing import Any, Protocol, TypeVar

Taken = TypeVar("Taken", contravariant=True)
Made = TypeVar("Made", covariant=True)


class Job(Protocol[Taken, Made]):
    """A small value that can be pickled, since it travels with each item. `open` makes the function that does its
    items, with `threads` for each, or one for each core if 0."""

    def open(self, threads: int) -> Callable[[Taken], Made]: ...


def pickled(job: Job[Any, Any]) -> bytes:
    """A job as it travels."""
    return pickle.dumps(job)


_OPEN: dict[tuple[bytes, int], Callable[[Any], Any]] = {}  # the one job that this process has open
_LOCK = Lock()  # a caller's workers may be threads, which share what is open


def do(job: bytes, threads: int, item: Any) -> Any:
    """One item of a pickled job, in a worker. The job is opened for its first item, and stays open until another job
    comes."""
    with _LOCK:
        if (job, threads) not in _OPEN:
            _OPEN.clear()  # two large networks are too many
            _OPEN[job, threads] = pickle.loads(job).open(threads)
        run = _OPEN[job, threads]
    return run(item)
