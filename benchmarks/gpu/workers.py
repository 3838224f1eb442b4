"""Jobs in separate processes, so that a crash or an endless call loses one job and not the run."""

import contextlib
import fcntl
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from benchmarks.gpu.results import AnyRecord

OVER = "the time was over"
SPOILT = ("CUDA error", "CUDA failure", "cudaError", "CUDNN_STATUS_EXECUTION_FAILED")  # texts of errors that last
GRACE = 5.0  # seconds that a job may go on past the deadline before its process is ended


class Job(Protocol):
    """The work of a worker. It is pickled."""

    def run(self) -> Iterable[AnyRecord]:
        """Yield the records as they are made."""

    def failure(self, reason: str) -> AnyRecord:
        """Return the record with the reason of a failure."""


@dataclass
class _Worker:
    process: Any
    connection: Connection
    job: Job | None = None
    is_done: bool = False  # its job gave at least one record


def run_jobs(
    jobs: Sequence[Job],
    add: Callable[[AnyRecord], None],
    until: float,
    workers: int = 1,
    nice: int = 0,
    environment: dict[str, str] | None = None,
) -> None:
    """Run jobs in order and add their records.

    until: the monotonic clock's time, in seconds, after which no job begins; GRACE later all are stopped. workers:
    processes at a time. nice: by how much their priority is lower. environment: their additional variables.
    """
    waiting = list(reversed(jobs))
    running: list[_Worker] = []
    try:
        while waiting or any(each.job for each in running):
            now = time.monotonic()
            if now > until:
                while waiting:
                    add(waiting.pop().failure(OVER))
            if now > until + GRACE:
                return
            _give(waiting, running, workers, nice, environment or {})
            ready = wait([each.connection for each in running if each.job], timeout=0.5)
            for each in [each for each in running if each.connection in ready]:
                _take(each, running, add)
    finally:
        for each in running:
            _end(each, add)


def _give(waiting: list[Job], running: list[_Worker], workers: int, nice: int, environment: dict[str, str]) -> None:
    """Give each idle worker a job, and start workers that are missing."""
    for each in running:
        if each.job is None and waiting:
            _send(each, waiting.pop())
    while waiting and len(running) < workers:
        here, there = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=_work, args=(there, nice, environment), daemon=True)
        process.start()
        there.close()
        running.append(_Worker(process, here))
        _send(running[-1], waiting.pop())


def _send(worker: _Worker, job: Job) -> None:
    worker.job, worker.is_done = job, False
    with contextlib.suppress(OSError):  # it has ended: `_take` will see that
        worker.connection.send(job)


def _take(worker: _Worker, running: list[_Worker], add: Callable[[AnyRecord], None]) -> None:
    """Handle a worker's message: a record, the reason of a failure, or at the end of a job whether the worker can
    continue.
    """
    assert worker.job is not None
    try:
        said = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join(GRACE)
        running.remove(worker)
        add(worker.job.failure(f"the process ended with {_code(worker.process.exitcode)}"))
        return
    if isinstance(said, bool):
        worker.job = None
        if not said:
            running.remove(worker)
    elif isinstance(said, str):
        add(worker.job.failure(said))
    else:
        worker.is_done = True
        add(said)


def _end(worker: _Worker, add: Callable[[AnyRecord], None]) -> None:
    if worker.job is not None and not worker.is_done:
        add(worker.job.failure(OVER))
    worker.process.kill()
    worker.process.join(GRACE)
    worker.connection.close()


def _code(exit_code: int | None) -> str:
    return f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"


def _work(connection: Connection, nice: int, environment: dict[str, str]) -> None:
    """The main function of a worker's process, until its pipe is closed."""
    os.environ.update(environment)
    os.nice(nice)
    with contextlib.suppress(EOFError, OSError):
        while True:
            job, can_go_on = connection.recv(), True
            try:
                for record in job.run():
                    connection.send(record)
            except Exception as error:  # engines share no base class but Exception
                traceback.print_exc()
                connection.send(reason_of(error))
                can_go_on = not any(text in str(error) for text in SPOILT)
            connection.send(can_go_on)
            if not can_go_on:
                return


def reason_of(error: BaseException) -> str:
    """Return an exception in one line."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextlib.contextmanager
def lock(file: Path) -> Iterator[None]:
    """Allow one process at a time. The lock of a process that ends is free again."""
    with file.open("a") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
