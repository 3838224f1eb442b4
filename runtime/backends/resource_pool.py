"""A pool of resources that threads share. Such a resource (a context, a stream, buffers) is called a lane, and serves
one call at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import LifoQueue
from typing import Generic, TypeVar

Lane = TypeVar("Lane")


class ResourcePool(Generic[Lane]):
    """A pool from which a call takes a lane, and returns it afterwards. Calls wait while all lanes are in use.

    The lane that was used last is taken first.
    """

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
