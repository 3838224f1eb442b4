"""Workers behind any executor of `concurrent.futures`, for programs that have one."""

from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.workers.job import Done, Order, Refusal, do


@dataclass(frozen=True)
class ExecutorWorkers:
    """`count` is the number of calls that the executor runs at once. Each has `threads`, from which results follow.

    A worker that dies is the executor's matter; the pools of the standard library break, which is a UserError. Workers
    have to see the bundle at its path.
    """

    executor: Executor
    count: int
    threads: int = 1

    def submit(self, order: Order[Any, Any], item: Any) -> "Future[Done[Any] | Refusal]":
        return self.executor.submit(do, order, item)

    def deliver(self, order: Order[Any, Any]) -> None:
        """An order goes with each item; a bundle is not sent."""
        what = f"the workers of {self.executor} do not see {order.job.bundle.path}"
        raise UserError(what, "give a path that all workers see")
