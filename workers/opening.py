"""The workers that a verb's options `workers`, `dask` and `threads` ask for.

onnxruntime shares the sums of an operation among its threads: other numbers of threads may round otherwise. So the
number of workers does not change the threads of an item.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fewstep.machine.cpu import usable_cores
from fewstep.plans.errors import UserError
from fewstep.workers.dask_cluster import DaskWorkers
from fewstep.workers.in_order import Workers
from fewstep.workers.processes import Processes

LOG = logging.getLogger("fewstep")
THREADS = 1  # of an item of workers, unless the caller says otherwise


@contextmanager
def opened(
    count: int, dask: str | None, open_already: Workers | None = None, threads: int = 0
) -> Iterator[Workers | None]:
    """Workers while the block runs; None where the process itself does all. `open_already` stay open, with their own
    threads. `threads` run one item, 0 for `THREADS`."""
    check_workers(count, dask)
    if open_already is not None:
        yield open_already
    elif dask is not None:
        with DaskWorkers(dask, threads or THREADS) as cluster:
            yield cluster
    elif count:
        warn_of_workers(count, threads)
        with Processes(count, threads or THREADS) as processes:
            yield processes
    else:
        yield None


def threads_of(workers: Workers | None, threads: int) -> int:
    """Threads of one evaluation, by workers or by this process. 0 stands for one for each core."""
    return threads if workers is None else workers.threads


def warn_of_workers(count: int, threads: int = 0) -> None:
    """Warn where processes of this machine leave half of its cores idle, or wait for each other. `threads` run one
    item, 0 for `THREADS`."""
    busy = count * (threads or THREADS)
    if count and 2 * busy <= usable_cores():
        _say_idle(count, threads or THREADS)
    elif count > 1 and busy > usable_cores():
        best = max(1, usable_cores() // (threads or THREADS))
        LOG.warning(
            "%d workers of %d thread%s wait for each other on %d core%s: --workers %d is as fast, in less memory",
            *(count, threads or THREADS, "s" * (threads > 1), usable_cores(), "s" * (usable_cores() > 1), best),
        )


def _say_idle(count: int, threads: int) -> None:
    LOG.warning(
        "%d worker%s of %d thread%s keep at most %d of %d cores busy: --workers %d uses all with the same result, "
        "--threads %d with less memory (other threads may change last bits)",
        *(count, "s" * (count > 1), threads, "s" * (threads > 1), count * threads, usable_cores()),
        *(usable_cores() // threads, usable_cores() // count),
    )


def check_workers(count: int, dask: str | None) -> None:
    """UserError for a negative number of workers, or for both processes and a cluster."""
    if count < 0:
        raise UserError(f"--workers is {count}", "give the number of processes, or 0 for this one alone")
    if count and dask is not None:
        raise UserError("both --workers and --dask", "give one of them: a cluster has its own number of workers")
