"""The results of a job's items in the order of the items, whoever does them and whenever they come.

Merged results then depend neither on the number of workers, nor on their speed. A few items more than there are workers
are under way. Results that come early wait, so memory depends on the workers, not on the items.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future
from typing import Any, Protocol

from fewstep.measure.workers.job import Item, Job, Order, Result, order
from fewstep.plans.errors import UserError

AHEAD = 2  # items under way, for each worker


class Workers(Protocol):
    """The doers of items: `Processes` of this machine, or what a caller has."""

    @property
    def count(self) -> int:
        """The number of items done at once."""

    @property
    def threads(self) -> int:
        """Threads of one item, 1 or more: an engine of other threads may add in another order."""

    def submit(self, order: Order[Any, Any], item: Any) -> "Future[Any]":
        """Let a worker `do` an item. The item of a worker that dies is done again by another."""


def in_order(job: Job[Item, Result], items: Iterable[Item], workers: Workers) -> Iterator[Result]:
    """The result of each item. UserError where workers die of an item each time. Errors of the job itself are raised as
    they are."""
    asked: deque[Future[Any]] = deque()
    job_order = order(job, workers.threads)
    try:
        for item in items:
            asked.append(workers.submit(job_order, item))
            if len(asked) >= AHEAD * workers.count:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()
    except (BrokenExecutor, CancelledError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"the workers are gone ({reason})", "start them, and run the command again") from error
    finally:
        for answer in asked:
            answer.cancel()
