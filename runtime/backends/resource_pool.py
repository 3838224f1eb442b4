"""Lanes: resources for one call at a time (a context, a stream, buffers), shared by any number of threads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import LifoQueue
from typing import Generic, TypeVar

Lane = TypeVar("Lane")


class ResourcePool(Generic[Lane]):
    """A call takes a lane, waiting while all are in use, and gives it back. The last used is the first taken again."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._free: LifoQueue[Lane] = LifoQueue()
        for lane in lanes:
            self._free.put(lane)

    @contextmanager
    def take(self) -> Iterator[Lane]:
        lane = self._free.get()
        try:
            yield lane
        finally:
            self._free.put(lane)
