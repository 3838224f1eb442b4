"""A lock for each device: recordings of CUDA graphs run alone on it, and all other calls together.

ONNX Runtime records in CUDA's global mode. While it records, a call in another thread that allocates or frees memory
fails, in the thread that made it, and spoils the recording.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class DeviceLock:
    """Any number of threads hold it shared, or one thread holds it alone.

    A thread that waits to hold it alone goes before threads that then ask to share. A thread that holds it may ask to
    share it again; it must not ask to hold it alone.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._waiting = 0
        self._is_alone = False
        self._thread = threading.local()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold it together with others, for a call that records nothing."""
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
        """Hold it without others, for a recording."""
        assert self._depth == 0, "a thread that shares the lock would wait for itself"
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._is_alone and not self._sharing)
                self._is_alone = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        self._depth = 1  # to share what it holds alone changes nothing
        try:
            yield
        finally:
            self._depth = 0
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()

    @property
    def _depth(self) -> int:
        """How many times this thread holds it."""
        return getattr(self._thread, "depth", 0)

    @_depth.setter
    def _depth(self, depth: int) -> None:
        self._thread.depth = depth


_LOCKS: dict[tuple[str, int], DeviceLock] = {}


def device_lock(kind: str, number: int) -> DeviceLock:
    """The lock of a device of this process, such as ("cuda", 0): the same for all who ask."""
    return _LOCKS.setdefault((kind, number), DeviceLock())
