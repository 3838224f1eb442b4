"""Workers behind an executor of the standard library, whose threads are quickly there."""

from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from fewstep.measure.workers.job import Order, do


@dataclass(frozen=True)
class ExecutorWorkers:
    """`count` calls run at once, each on `threads`."""

    executor: Executor
    count: int
    threads: int = 1

    def submit(self, order: Order[Any, Any], item: Any) -> "Future[Any]":
        return self.executor.submit(do, order, item)
