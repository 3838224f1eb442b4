"""A lock for each device. A recording of a CUDA graph holds it exclusively, and all other calls share it.

ONNX Runtime records in CUDA's global mode. If another thread allocates or frees memory during a recording, both its
call and the recording fail.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class DeviceLock:
    """A reader-writer lock: several threads may share it, or one thread may hold it exclusively (`alone`).

    A thread that waits to hold it exclusively takes precedence over threads that want to share it later. A thread that
    shares the lock may call `share` again, but must not call `alone`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._waiting = 0
        self._is_alone = False
        self._thread = threading.local()

    @contextmanager
    def share(self) -> Iterator[None]:
        """Share the lock with other threads, for a call that does not record."""
        if self._depth == 0:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_alone and not self._waiting)
                self._sharing += 1
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                with self._changed:
                    self._sharing -= 1
                    self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock exclusively while a CUDA graph is recorded."""
        assert self._depth == 0, "a thread that shares the lock would wait for itself"
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._is_alone and not self._sharing)
                self._is_alone = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        self._depth = 1  # so that `share` does nothing in this thread
        try:
            yield
        finally:
            self._depth = 0
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()

    @property
    def _depth(self) -> int:
        """How many times this thread holds the lock."""
        return getattr(self._thread, "depth", 0)

    @_depth.setter
    def _depth(self, depth: int) -> None:
        self._thread.depth = depth


_LOCKS: dict[tuple[str, int], DeviceLock] = {}


def device_lock(kind: str, number: int) -> DeviceLock:
    """Return the lock of a device, such as ("cuda", 0). There is one for each device of this process."""
    return _LOCKS.setdefault((kind, number), DeviceLock())
