"""The results of a job's items in the order of the items, whoever does them and whenever they come.

Merged results then depend neither on the number of workers, nor on their speed. A few items more than there are workers
are under way. Results that come early wait, so memory depends on the workers, not on the items.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future
from typing import Any, Protocol

from fewstep.plans.errors import UserError
from fewstep.workers.job import Done, Item, Job, Order, Refusal, Result, order
from fewstep.workers.kind import this_kind

LOG = logging.getLogger("fewstep")
AHEAD = 2  # items under way, for each worker
SENDING = 3  # times that the bundle is sent for one item: workers may come and go


class Workers(Protocol):
    """The doers of items: processes of this machine, or a cluster of Dask."""

    @property
    def count(self) -> int:
        """The number of items done at once."""

    @property
    def threads(self) -> int:
        """Threads of one item, 1 or more: an engine of other threads may add in another order."""

    def submit(self, order: Order[Any, Any], item: Any) -> "Future[Done[Any] | Refusal]":
        """Let a worker `do` an item. The item of a worker that dies is done again by another."""

    def deliver(self, order: Order[Any, Any]) -> None:
        """Send an order, and its bundle, to the workers that lack them. UserError where that cannot be."""


def in_order(job: Job[Item, Result], items: Iterable[Item], workers: Workers) -> Iterator[Result]:
    """The result of each item. UserError where workers give none: they are of another kind, lack the bundle, or die of
    an item each time. Errors of the job itself are raised as they are."""
    asked: deque[tuple[Item, Future[Any]]] = deque()
    job_order = order(job, workers.threads)
    try:
        for item in items:
            asked.append((item, workers.submit(job_order, item)))
            if len(asked) >= AHEAD * workers.count:
                yield _first(job_order, asked, workers)
        while asked:
            yield _first(job_order, asked, workers)
    except (BrokenExecutor, CancelledError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"the workers are gone ({reason})", "start them, and run the command again") from error
    finally:
        for _, answer in asked:
            answer.cancel()


def _first(job_order: Order[Item, Result], asked: "deque[tuple[Item, Future[Any]]]", workers: Workers) -> Result:
    """The result of the first item, which leaves `asked`. All refused items under way are submitted again: else they
    would be done one after the other."""
    for _ in range(SENDING):
        answer: Done[Result] | Refusal = asked[0][1].result()
        if isinstance(answer, Done):
            asked.popleft()
            return answer.result
        if answer.kind is not None:
            raise UserError(
                f"worker {answer.host} may give other bits than this machine: {this_kind().difference(answer.kind)}",
                "use workers with the processor, fewstep and onnxruntime of this machine",
            )
        LOG.info("the job and its bundle are sent to %s", answer.host)
        workers.deliver(job_order)
        for number, (item, future) in enumerate(asked):
            if _is_refused(future):
                asked[number] = item, workers.submit(job_order, item)
    raise UserError(
        f"workers do not find the bundle {job_order.job.bundle.path}", "give it by a path that all workers see"
    )


def _is_refused(asked: "Future[Any]") -> bool:
    if not asked.done() or asked.cancelled() or asked.exception() is not None:
        return False
    return isinstance(asked.result(), Refusal)
