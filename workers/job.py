"""A job: work that is opened once in each process, and then done item by item.

Items are independent, so that results do not follow from who does them. Jobs and items travel as pickles, between
processes that the user started.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from platform import node
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

from fewstep.workers.kind import Kind, this_kind
from fewstep.workers.sent_bundle import NotHere, SentBundle

KEPT = 8  # orders that a worker knows

Item = TypeVar("Item")
Result = TypeVar("Result")
Taken = TypeVar("Taken", contravariant=True)
Made = TypeVar("Made", covariant=True)


class Job(Protocol[Taken, Made]):
    """A value that can be pickled. `open` makes the function that does its items, with `threads` for each, or one for
    each core if 0. NotHere where the process lacks the bundle."""

    @property
    def bundle(self) -> SentBundle: ...

    def open(self, threads: int) -> Callable[[Taken], Made]: ...


@dataclass(frozen=True)
class Order(Generic[Item, Result]):
    """A job for workers of one kind; `order` makes it. `name` is unlike all other orders'."""

    job: Job[Item, Result]
    kind: Kind
    threads: int
    name: str


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A worker's result of an item."""

    result: Result


@dataclass(frozen=True)
class Refusal:
    """A worker's refusal: it is of another `kind`, or, where that is None, it lacks the bundle or the order."""

    host: str
    kind: Kind | None


def order(job: Job[Item, Result], threads: int) -> Order[Item, Result]:
    """The order for a job, to workers like this process."""
    return Order(job, this_kind(), threads, sha256(pickle.dumps((job, threads))).hexdigest())


def do(order: Order[Item, Result], item: Item) -> Done[Result] | Refusal:
    """Do one item, in a worker. The job is opened for its first item, and stays open until another job comes."""
    if (kind := this_kind()) != order.kind:
        return Refusal(node(), kind)
    try:
        run = _opened(order)
    except NotHere:
        return Refusal(node(), None)
    return Done(run(item))


def keep(order: Order[Any, Any]) -> None:
    """Keep an order in a worker. Later messages name it only: a job may hold tables and samples."""
    _KEPT[order.name] = order
    for name in list(_KEPT)[:-KEPT]:
        _KEPT.pop(name, None)


def is_kept(name: str) -> bool:
    """True if this worker keeps the order of that name."""
    return name in _KEPT


def do_kept(name: str, item: Any) -> Done[Any] | Refusal:
    """Do one item of an order that was kept, in a worker."""
    order = _KEPT.get(name)
    return Refusal(node(), None) if order is None else do(order, item)


_KEPT: dict[str, Order[Any, Any]] = {}  # the last orders: several commands may share a cluster
_OPEN: dict[str, Callable[[Any], Any]] = {}  # the one job that this process has open, by the name of its order
_LOCK = Lock()  # a worker of Dask has several threads, which share what is open


def _opened(order: Order[Item, Result]) -> Callable[[Item], Result]:
    with _LOCK:
        if order.name not in _OPEN:
            _OPEN.clear()  # two large networks are too many
            _OPEN[order.name] = order.job.open(order.threads)
        return _OPEN[order.name]
