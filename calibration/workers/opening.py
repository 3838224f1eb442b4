"""The workers that a verb's options `workers` and `dask` ask for."""

from collections.abc import Iterator
from contextlib import contextmanager

from fewstep.calibration.workers.dask_cluster import DaskWorkers
from fewstep.calibration.workers.in_order import Workers
from fewstep.calibration.workers.processes import Processes
from fewstep.plans.errors import UserError


@contextmanager
def opened(count: int, dask: str | None, given: Workers | None = None) -> Iterator[Workers | None]:
    """Workers for as long as the block runs; None where the process itself does all. `given` ones stay open."""
    check_workers(count, dask)
    if given is not None:
        yield given
    elif dask is not None:
        with DaskWorkers(dask) as cluster:
            yield cluster
    elif count:
        with Processes(count) as processes:
            yield processes
    else:
        yield None


def check_workers(count: int, dask: str | None) -> None:
    """UserError for options that ask for nothing that can be."""
    if count < 0:
        raise UserError(f"--workers is {count}", "give the number of processes, or 0 for this one alone")
    if count and dask is not None:
        raise UserError("both --workers and --dask", "give one of them: a cluster has its own number of workers")
