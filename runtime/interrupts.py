"""Make Ctrl-C end a command even if a library swallows the KeyboardInterrupt.

Python does not propagate exceptions from weakref callbacks or `__del__`: it prints the traceback, drops the exception
and continues. The import system and torch often run such callbacks, so a KeyboardInterrupt is sometimes raised in one.
This module raises it again after the callback has returned. Other code catches BaseException. So an interrupt is also
recorded, and `check_interrupted` raises it before anything is written.

Compiled modules call Python while they are imported. Some of them end the process if that call raises: torch aborts. So
an interrupt waits until the import of an installed package has ended.
"""

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

RETRY = 0.01  # seconds after which a swallowed interrupt is raised again, since the callback has returned by then
INSISTS = 1.0  # seconds after which an interrupt counts as the second: a terminal and a wrapper both send the first
INSTALLED = tuple(f"{os.sep}{folder}{os.sep}" for folder in ("site-packages", "dist-packages"))
OWN = __name__.partition(".")[0]
SHOW_CURSOR = "\x1b[?25h"  # shows the cursor again, which progress bars hide


@dataclass
class _Command:
    """The state of the running command as far as interrupts (Ctrl-C) are concerned."""

    first: float | None = None  # time of the first interrupt (time.monotonic)
    code: int | None = None  # its exit code, once it is known
    handler: Callable[[int, FrameType | None], None] | None = None  # the previous handler of SIGINT
    was_swallowed: bool = False
    is_delayed: bool = False
    is_due: bool = False  # whether an interrupt came while interrupts were delayed


_command = _Command()


def was_interrupted() -> bool:
    """Return True if an interrupt has come since `record_interrupts`, even if its KeyboardInterrupt was swallowed."""
    return _command.first is not None


def check_interrupted() -> None:
    """Raise KeyboardInterrupt if an interrupt has come since `record_interrupts`. Call it before irreversible steps."""
    if was_interrupted():
        raise KeyboardInterrupt


@contextmanager
def record_interrupts(line: str, code: int) -> Iterator[None]:
    """Record the interrupts (SIGINT) of a block. The first one raises KeyboardInterrupt.

    A second one, at least a second later, writes `line` to stderr and ends the process with `code` immediately, without
    cleanup. Only the main thread can be interrupted. In other threads, and if the caller handles SIGINT, this does
    nothing.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        _forget_ended()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _command.code is not None:  # the command has ended, and the interpreter is shutting down
            os._exit(_command.code)
        if _command.was_swallowed and _is_inside(frame, report_dropped):
            _retry()  # an exception raised in the hook would be printed and dropped as well
            return
        now = time.monotonic()
        if _command.was_swallowed or _command.first is None:
            _command.was_swallowed = False
            _command.first = _command.first or now
            if _is_importing(frame):
                _retry()
                return
            _command.is_due = _command.is_delayed
            if not _command.is_delayed:
                raise KeyboardInterrupt
        elif now - _command.first >= INSISTS:
            with suppress(OSError):
                os.write(2, f"{SHOW_CURSOR if os.isatty(2) else ''}{line}\n".encode())
            os._exit(code)

    report = sys.unraisablehook

    def report_dropped(dropped: "sys.UnraisableHookArgs") -> None:
        if _is_dropped_interrupt(dropped):
            _retry()
        else:
            report(dropped)

    sys.unraisablehook = report_dropped
    signal.signal(signal.SIGINT, interrupt)
    _command.handler = interrupt
    atexit.register(_ignore_interrupts)  # registered first, so it is called last
    try:
        yield
    finally:
        if _command.code is None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook = report
            _command.first, _command.is_due = None, False


@contextmanager
def delay_interrupts() -> Iterator[None]:
    """Delay the KeyboardInterrupt of an interrupt until after the block, or until `allow_interrupts` inside it.

    Use it for short operations that must complete. It does nothing outside `record_interrupts`, or in threads other
    than the main one, which are not interrupted.
    """
    with _delay(True):
        yield


@contextmanager
def allow_interrupts() -> Iterator[None]:
    """Allow interrupts in a long part of a block of `delay_interrupts`."""
    with _delay(False):
        yield


@contextmanager
def _delay(is_delayed: bool) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _command.is_delayed = _command.is_delayed, is_delayed
    try:
        _raise_due()
        yield
    finally:
        _command.is_delayed = before
        _raise_due()


def _forget_ended() -> None:
    """Forget a command that declared its exit code although the process then continued, for example in a test."""
    if _command.code is not None:
        if signal.getsignal(signal.SIGINT) is _command.handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _command.first, _command.code, _command.is_due = None, None, False


def _raise_due() -> None:
    """Raise KeyboardInterrupt for a delayed interrupt, unless interrupts are still delayed."""
    if _command.is_due and not _command.is_delayed:
        _command.is_due = False
        raise KeyboardInterrupt


def end_with(code: int) -> int:
    """Record that the command has ended with this exit code, so that a later interrupt does not change it. Returns the
    code.

    Call it inside `record_interrupts`, whose handler then stays installed.
    """
    _command.code = code
    return code


def _ignore_interrupts() -> None:
    """Ignore SIGINT. After the atexit functions, Python removes its handler, and SIGINT would kill the process."""
    if _command.code is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_dropped_interrupt(dropped: "sys.UnraisableHookArgs") -> bool:
    return was_interrupted() and issubclass(dropped.exc_type, KeyboardInterrupt)


def _is_inside(frame: FrameType | None, function: Callable[..., None]) -> bool:
    """Return whether a frame belongs to a call of `function`, or was called from one."""
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether a frame is inside the import of an installed package other than fewstep."""
    while frame is not None:
        code, package = frame.f_code, str(frame.f_globals.get("__name__")).partition(".")[0]
        is_installed = any(folder in code.co_filename for folder in INSTALLED)
        if code.co_name == "<module>" and is_installed and package not in ("__main__", OWN):
            return True
        frame = frame.f_back
    return False


def _retry() -> None:
    """Start a thread that interrupts the main thread again after RETRY seconds, in case the first interrupt was
    swallowed."""

    def interrupt() -> None:
        time.sleep(RETRY)
        if _command.code is None and was_interrupted():
            _command.was_swallowed = True
            _thread.interrupt_main()

    # A threading.Thread would wait for its start, with locks that the handler of a signal must not take twice.
    _thread.start_new_thread(interrupt, ())
