"""The workers that a verb's options `workers` and `threads` request.

onnxruntime splits the sums of an operation among its threads, so another number of threads may round differently. For
this reason the number of workers does not change the threads of an item.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from fewstep.measure.rollouts.prompts import ConditionOptions
from fewstep.measure.workers.job import Workers
from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.backends.checks import check_threads, import_package
from fewstep.runtime.machine.cpu import usable_threads

LOG = logging.getLogger("fewstep")
ITEM_THREADS = 1  # threads of an item in workers, by default
UNKNOWN_COUNT = 32  # concurrent calls for a caller's executor without a `count`
SCHEDULER_TIMEOUT = 10  # seconds within which a scheduler must answer


@dataclass(frozen=True)
class WorkerSetup:
    """The workers of a verb: the number of processes of this machine (0 for none), the threads of an item (0 for
    `ITEM_THREADS`), and the address of a Dask scheduler or None. Raises UserError for invalid values."""

    count: int = 0
    threads: int = 0
    cluster: str = ""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UserError(f"--workers is {self.count}", "give the number of processes, or 0 for only this one")
        if self.count and self.cluster:
            raise UserError(
                "--workers and --cluster cannot be combined", "give one of them: a cluster has its own workers"
            )


@contextmanager
def start_workers(setup: WorkerSetup, open_already: Executor | None = None) -> Iterator[Workers | None]:
    """Yield worker processes for the duration of a `with` block, or None if this process runs everything.

    open_already: an executor of the caller to use instead of new processes. It stays open. Raises UserError if it is
        not an executor, or if the scheduler that `setup` names does not answer.
    """
    threads = setup.threads or ITEM_THREADS
    if open_already is not None:
        if not isinstance(open_already, Executor):
            raise UserError(
                f"workers cannot be {open_already!r}", "give a concurrent.futures.Executor, or a number as an option"
            )
        count, threads = getattr(open_already, "count", UNKNOWN_COUNT), getattr(open_already, "threads", threads)
        yield Workers(open_already, count, threads)
    elif setup.cluster:
        with _client(setup.cluster) as client:
            yield Workers(client.get_executor(pure=False), max(1, sum(client.ncores().values())), threads)
    elif setup.count:
        from fewstep.measure.workers.process_pool import ProcessPool  # not needed for one process or a cluster

        warn_of_workers(setup)
        with ProcessPool(setup.count, threads) as processes:
            yield Workers(processes, setup.count, threads)
    else:
        yield None


def _client(address: str) -> Any:
    """Return a client of the Dask scheduler at an address. Raises UserError if no scheduler answers."""
    distributed = import_package("distributed", "a cluster needs distributed, which", "pip install 'fewstep[cluster]'")
    try:
        return distributed.Client(address, timeout=SCHEDULER_TIMEOUT)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no scheduler answers at {address} ({first_line(error)})", "start one: dask scheduler"
        ) from None


def warn_of_workers(setup: WorkerSetup) -> None:
    """Log a warning if the worker processes have more threads than there are cores."""
    cores, count, threads = usable_threads(), setup.count, setup.threads or ITEM_THREADS
    if count > 1 and count * threads > cores:
        LOG.warning(
            "%d workers of %d thread%s wait for each other on %d core%s: --workers %d is as fast, in less memory",
            *(count, threads, "s" * (threads > 1), cores, "s" * (cores > 1), max(1, cores // threads)),
        )


def describe_shared_work(setup: WorkerSetup) -> Iterator[str]:
    """Yield a sentence on the time of work that workers share; nothing without workers."""
    if setup.count or setup.cluster:
        yield "workers share this work: it takes less than one process needs, and how much less is not known before"


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(ConditionOptions):
    """Conditions and processes of a verb that samples. Raises UserError for invalid workers or threads.

    workers: Processes of this machine that share the sampling, with bitwise identical results for any number from 1 on.
        Each has the weights in memory. 0 for only this process, on all cores unless threads is 1.
    threads: Threads of one evaluation, on which its last bits may depend. 0 for one per worker, or without workers
        one per core.
    cluster: Address of a Dask scheduler whose workers share the sampling instead, as tcp://host:8786. They must have
        fewstep installed, and the bundle at the same path.
    """

    workers: int = field(default=0, metadata={"unrecorded": True})
    threads: int = 0
    cluster: str = field(default="", metadata={"unrecorded": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threads(self.threads)
        _ = self.setup  # raises UserError for invalid workers

    @property
    def setup(self) -> WorkerSetup:
        """The workers of these options."""
        return WorkerSetup(self.workers, self.threads, self.cluster)

    def start_workers(self, open_already: Executor | None = None) -> AbstractContextManager[Workers | None]:
        """Start worker processes with these options. Returns a context manager that yields them, or None if no workers
        are used.

        open_already: running processes to use instead of new ones.
        """
        return start_workers(self.setup, open_already)
