"""The cost of a command: wall seconds, processor seconds, and the peak of resident memory. Linux only.

Memory is that of the process and of all its children, including swapped memory and pages mapped from files, which
the system could drop. Pages that a process shares with its forks count once for each.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType

INTERVAL = 0.02  # seconds between two looks at the memory


@dataclass(frozen=True)
class Cost:
    """Wall seconds, seconds of all processors, and bytes."""

    seconds: float
    processor: float
    peak: int


class Unfinished(Exception):
    """A command that failed; the message says why."""


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command, with `environment` added to that of this process. Call it from the main thread.

    Raises Unfinished if it fails, with the last line of its errors. All child processes are killed at the
    end, even if this process is interrupted or terminated.
    """
    with TemporaryFile() as errors, _ending_in_order():
        started = time.perf_counter()
        process: subprocess.Popen[bytes] | None = None
        # Blocked until `process` is known: a signal that arrived inside Popen would leave the command running.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        unblock = partial(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # a group of its own, to be killed as one
                preexec_fn=unblock,
            )
            unblock()
            peak, processor = _watch(process)
        finally:
            if process is None:
                unblock()
            else:
                _kill(process)
        seconds = time.perf_counter() - started
        if process.returncode:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise Unfinished(said[-1] if said else f"failed with {process.returncode}")
    return Cost(seconds, processor, peak)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all its children, and wait for its end."""
    with suppress(ProcessLookupError):  # nothing is left of it
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        process.wait()


def _watch(process: "subprocess.Popen[bytes]") -> tuple[int, float]:
    """Wait for a process to end, and return its peak of memory and its processor seconds."""
    peak = 0
    while True:
        now = sum(_kib(each, "VmRSS", "VmSwap") for each in _family(process.pid))
        peak = max(peak, now, _kib(process.pid, "VmHWM"))  # the latter also knows what was between two looks
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            return 1024 * peak, usage.ru_utime + usage.ru_stime
        time.sleep(INTERVAL)


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, as SIGINT raises KeyboardInterrupt, so that open files are closed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _family(process: int) -> Iterator[int]:
    """Yield a process, its children, and so on."""
    yield process
    try:
        threads = os.listdir(f"/proc/{process}/task")
    except OSError:  # it has just ended
        return
    for thread in threads:
        try:
            children = Path(f"/proc/{process}/task/{thread}/children").read_text().split()
        except OSError:  # as above
            continue
        for child in children:
            yield from _family(int(child))


def _kib(process: int, *names: str) -> int:
    """Return the sum of the lines of a process's status that count memory; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.partition(":")[0] in names)
