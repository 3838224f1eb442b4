"""The workers that a verb's options `workers` and `threads` ask for.

onnxruntime shares the sums of an operation among its threads: other numbers of threads may round otherwise. So the
number of workers does not change the threads of an item.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fewstep.measure.workers.in_order import Workers
from fewstep.measure.workers.processes import Processes
from fewstep.plans.errors import UserError
from fewstep.runtime.machine.cpu import usable_cores

LOG = logging.getLogger("fewstep")
THREADS = 1  # of an item of workers, unless the caller says otherwise


@contextmanager
def opened(count: int, open_already: Workers | None = None, threads: int = 0) -> Iterator[Workers | None]:
    """Workers while the block runs; None where the process itself does all. `open_already` stay open, with their own
    threads. `threads` run one item, 0 for `THREADS`. UserError for what is no worker."""
    check_workers(count)
    if open_already is not None:
        if not hasattr(open_already, "submit"):
            raise UserError(f"workers is {open_already!r}", "give open workers, or their number as an option")
        yield open_already
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
    """Warn where processes of this machine wait for each other. `threads` run one item, 0 for `THREADS`."""
    cores, each = usable_cores(), threads or THREADS
    if count > 1 and count * each > cores:
        LOG.warning(
            "%d workers of %d thread%s wait for each other on %d core%s: --workers %d is as fast, in less memory",
            *(count, each, "s" * (each > 1), cores, "s" * (cores > 1), max(1, cores // each)),
        )


def check_workers(count: int) -> None:
    """UserError for a negative number of workers."""
    if count < 0:
        raise UserError(f"--workers is {count}", "give the number of processes, or 0 for this one alone")
