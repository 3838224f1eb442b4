"""A job: work that is opened once in each process, and then done item by item.

Items are independent, so that results do not follow from who does them. Jobs and items travel as pickles, between
a command and the processes that it started.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Taken = TypeVar("Taken", contravariant=True)
Made = TypeVar("Made", covariant=True)


class Job(Protocol[Taken, Made]):
    """A value that can be pickled. `open` makes the function that does its items, with `threads` for each, or one for
    each core if 0."""

    def open(self, threads: int) -> Callable[[Taken], Made]: ...


@dataclass(frozen=True)
class Order(Generic[Item, Result]):
    """A job for workers; `order` makes it. `name` is unlike all other orders'."""

    job: Job[Item, Result]
    threads: int
    name: str


def order(job: Job[Item, Result], threads: int) -> Order[Item, Result]:
    """The order for a job."""
    return Order(job, threads, sha256(pickle.dumps((job, threads))).hexdigest())


def do(order: Order[Item, Result], item: Item) -> Result:
    """Do one item, in a worker. The job is opened for its first item, and stays open until another job comes."""
    return _opened(order)(item)


def keep(order: Order[Any, Any]) -> None:
    """Open the job of an order in a worker. Later messages have items only: a job may hold tables and samples."""
    _opened(order)


def do_kept(item: Any) -> Any:
    """Do one item of the order that was kept last, in a worker."""
    (run,) = _OPEN.values()
    return run(item)


_OPEN: dict[str, Callable[[Any], Any]] = {}  # the one job that this process has open, by the name of its order
_LOCK = Lock()  # a caller's workers may be threads, which share what is open


def _opened(order: Order[Item, Result]) -> Callable[[Item], Result]:
    with _LOCK:
        if order.name not in _OPEN:
            _OPEN.clear()  # two large networks are too many
            _OPEN[order.name] = order.job.open(order.threads)
        return _OPEN[order.name]
