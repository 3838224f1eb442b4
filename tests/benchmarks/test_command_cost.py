"""benchmarks/command_cost.py: memory and time of a command and of all its child processes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from benchmarks.command_cost import Unfinished, measure

MB = 10**6
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HOLDS = "import time; held = bytearray(b'x') * {megabytes}_000_000; time.sleep({seconds})"
STARTS = "import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}]); print(len(sys.argv))"
# measures a command that sleeps, of which only the command's own line has the mark in it
MEASURES = """
import os, sys
from benchmarks.command_cost import measure
measure([sys.executable, "-c", "import time; time.sleep(600)  # " + os.environ["MARK"]])
"""
# before MEASURES: a signal comes when the command has started, before the function that starts it returns
SIGNALLED_AT_ITS_START = """
import os, signal, subprocess

class Popen(subprocess.Popen):
    def _execute_child(self, *arguments):
        super()._execute_child(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Popen
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")


@needs_proc
def test_memory_and_time_of_a_command_are_its_own() -> None:
    found = measure([sys.executable, "-c", HOLDS.format(megabytes=200, seconds=0.1)])
    assert 200 * MB < found.peak < 230 * MB
    assert found.seconds > 0.1 and 0 < found.processor < found.seconds + 1


@needs_proc
def test_what_a_command_starts_counts() -> None:
    found = measure([sys.executable, "-c", STARTS.format(code=HOLDS.format(megabytes=100, seconds=0.2))])
    assert 105 * MB < found.peak < 140 * MB  # two interpreters, and what one of them holds


@needs_proc
def test_a_terminated_process_ends_what_it_measures() -> None:
    mark = str(uuid4())
    environment = os.environ | {"MARK": mark, "PYTHONPATH": str(BENCHMARKS)}
    with subprocess.Popen([sys.executable, "-c", MEASURES], env=environment) as measuring:
        assert wait_until(lambda: running(mark))
        measuring.terminate()
    assert measuring.returncode == 128 + 15
    assert wait_until(lambda: not running(mark))


@needs_proc
def test_a_signal_during_the_start_of_a_command_ends_it() -> None:
    mark = str(uuid4())
    environment = os.environ | {"MARK": mark, "PYTHONPATH": str(BENCHMARKS)}
    ended = subprocess.run([sys.executable, "-c", SIGNALLED_AT_ITS_START + MEASURES], env=environment)
    assert ended.returncode == 128 + 15
    assert wait_until(lambda: not running(mark))


@needs_proc
def test_what_a_command_leaves_running_is_killed() -> None:
    mark = str(uuid4())
    left = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)  # {mark}'])"
    measure([sys.executable, "-c", left])
    assert wait_until(lambda: not running(mark))


def wait_until(holds: Callable[[], bool]) -> bool:
    """Return whether a condition holds within a minute: the system takes a moment to start or end a process."""
    begun = time.monotonic()
    while not holds() and time.monotonic() - begun < 60:
        time.sleep(0.05)
    return holds()


def running(mark: str) -> bool:
    """Return whether a process with the mark in its command is running."""
    return any(mark.encode() in _command(path) for path in Path("/proc").glob("[0-9]*/cmdline"))


def _command(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(Unfinished, match="^ValueError: too odd$"):
        measure([sys.executable, "-c", "raise ValueError('too odd')"])
    with pytest.raises(Unfinished, match="failed with 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"])
