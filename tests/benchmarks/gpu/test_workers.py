"""Jobs in processes: a crash, an error or an endless call loses one job."""

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.gpu.results import AnyRecord, PartEnd
from benchmarks.gpu.workers import OVER, lock, run_jobs

pytestmark = pytest.mark.slow  # each starts processes


@dataclass(frozen=True)
class Step:
    """A job whose name says what it does."""

    name: str

    def run(self) -> Iterable[AnyRecord]:
        if self.name == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.name == "sleep":
            time.sleep(600)
        if self.name == "fail":
            raise ValueError("no such plan\nmore")
        if self.name == "spoil":
            raise RuntimeError("CUDA error: an illegal memory access")
        yield PartEnd(self.name, float(os.getpid()))

    def failure(self, reason: str) -> PartEnd:
        return PartEnd(self.name, 0.0, reason)


def outcome(*names: str, seconds: float = 60.0, workers: int = 1) -> list[PartEnd]:
    found: list[PartEnd] = []
    run_jobs([Step(name) for name in names], found.append, time.monotonic() + seconds, workers)  # type: ignore[arg-type]
    return found


def test_a_crash_loses_one_job() -> None:
    found = outcome("first", "crash", "last")
    assert [(each.name, each.reason) for each in found] == [
        ("first", ""),
        ("crash", "the process ended with signal 9"),
        ("last", ""),
    ]


def test_an_error_is_one_line_and_the_process_goes_on() -> None:
    first, failure, last = outcome("first", "fail", "last")
    assert failure.reason == "ValueError: no such plan" and first.seconds == last.seconds


def test_a_process_whose_gpu_is_lost_takes_no_other_job() -> None:
    first, failure, last = outcome("first", "spoil", "last")
    assert failure.reason == "RuntimeError: CUDA error: an illegal memory access"
    assert last.reason == "" and first.seconds != last.seconds


def test_what_has_no_time_left_says_so() -> None:
    found = outcome("sleep", "first", seconds=2.0)
    assert sorted((each.name, each.reason) for each in found) == [("first", OVER), ("sleep", OVER)]


def test_several_processes_share_the_jobs() -> None:
    found = outcome(*"abcd", workers=2)
    assert sorted(each.name for each in found) == ["a", "b", "c", "d"]
    assert len({each.seconds for each in found}) <= 2


def test_a_lock_is_free_once_its_process_leaves_it(tmp_path: Path) -> None:
    for _ in range(2):
        with lock(tmp_path / "turn"):
            assert (tmp_path / "turn").exists()
