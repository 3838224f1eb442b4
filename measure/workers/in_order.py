"""The results of a job's items in the order of the items, whoever does them and whenever they come.

Merged results then depend neither on the number of workers, nor on their speed. A few items more than there are workers
are under way. Results that come early wait, so memory depends on the workers, not on the items.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

from fewstep.measure.workers.job import Job, do, pickled
from fewstep.plans.errors import UserError

AHEAD = 2  # items under way, for each worker

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """An executor that does items: processes of this machine, a cluster's, or what a caller has.

    count: items done at once. threads: of one item, 1 or more; an engine of other threads may add in another order.
    """

    executor: Executor
    count: int
    threads: int = 1


def in_order(job: Job[Item, Result], items: Iterable[Item], workers: Workers) -> Iterator[Result]:
    """The result of each item. UserError where workers die of an item each time. Errors of the job itself are raised as
    they are."""
    futures: deque[Future[Any]] = deque()
    content = pickled(job)
    try:
        for item in items:
            futures.append(workers.executor.submit(do, content, workers.threads, item))
            if len(futures) >= AHEAD * workers.count:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    except (BrokenExecutor, CancelledError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"the workers are gone ({reason})", "start them, and run the command again") from error
    finally:
        for answer in futures:
            answer.cancel()
