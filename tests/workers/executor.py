"""Workers behind an executor of the standard library, whose threads are quickly there."""

from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.workers.job import Done, Order, Refusal, do


@dataclass(frozen=True)
class ExecutorWorkers:
    """`count` calls run at once, each on `threads`."""

    executor: Executor
    count: int
    threads: int = 1

    def submit(self, order: Order[Any, Any], item: Any) -> "Future[Done[Any] | Refusal]":
        return self.executor.submit(do, order, item)

    def deliver(self, order: Order[Any, Any]) -> None:
        raise UserError(f"the workers of {self.executor} do not see {order.job.bundle.path}", "give another path")
