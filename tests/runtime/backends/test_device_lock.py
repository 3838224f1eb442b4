"""Recordings run alone on their device, other calls together."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from fewstep.runtime.backends.device_lock import DeviceLock, device_lock

PATIENCE = 20.0  # seconds


def start(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def is_free(lock: DeviceLock) -> bool:
    """Return whether another thread gets the exclusive lock at once."""
    got = threading.Event()

    def take() -> None:
        with lock.alone():
            got.set()

    start(take)
    return got.wait(0.1)


def test_calls_share_it() -> None:
    lock, together = DeviceLock(), threading.Barrier(2)

    def call() -> None:
        with lock.share():
            together.wait(PATIENCE)  # passes only when both are inside

    threads = [start(call) for _ in range(2)]
    for thread in threads:
        thread.join(PATIENCE)
    assert not together.broken and not any(thread.is_alive() for thread in threads)


def test_a_recording_waits_for_calls() -> None:
    lock, order, begun, ends = DeviceLock(), [], threading.Event(), threading.Event()

    def call() -> None:
        with lock.share():
            begun.set()
            ends.wait(PATIENCE)
            order.append("call")

    def record() -> None:
        with lock.alone():
            order.append("recording")

    first = start(call)
    assert begun.wait(PATIENCE)
    second = start(record)
    second.join(0.05)
    assert second.is_alive()
    ends.set()
    first.join(PATIENCE), second.join(PATIENCE)
    assert order == ["call", "recording"]


def test_a_call_waits_for_a_recording_and_for_one_that_waits() -> None:
    lock, order = DeviceLock(), []

    def take(how: Callable[[], AbstractContextManager[None]], name: str) -> None:
        with how():
            order.append(name)

    with lock.share():
        recording = start(lambda: take(lock.alone, "recording"))
        recording.join(0.05)  # it waits by now
        call = start(lambda: take(lock.share, "call"))
        call.join(0.05)
        assert call.is_alive()
        with lock.share():  # this thread has it already, and goes on though a recording waits
            order.append("inner")
    recording.join(PATIENCE), call.join(PATIENCE)
    assert order == ["inner", "recording", "call"]


def test_a_recording_may_share_what_it_holds() -> None:
    lock = DeviceLock()
    with lock.alone(), lock.share():
        assert not is_free(lock)


def test_it_is_free_after_an_error() -> None:
    lock = DeviceLock()
    for how in (lock.share, lock.alone):
        try:
            with how():
                raise ValueError
        except ValueError:
            pass
        assert is_free(lock)


def test_a_device_has_one_lock() -> None:
    assert device_lock("cuda", 0) is device_lock("cuda", 0)
    assert device_lock("cuda", 0) is not device_lock("cuda", 1)
