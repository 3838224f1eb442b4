"""A cache of the most recently used values, such as graphs loaded for different sizes."""

from collections.abc import Callable
from threading import RLock
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class LruCache(dict[Key, Value]):
    """Up to `most` values by key, the most recently used last. Threads may share it.

    Hold `lock` to make several operations atomic.
    """

    def __init__(self, most: float) -> None:
        self._most, self.lock = most, RLock()

    def get_or_make(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of a key, or create it with `make` and evict the least recently used value.

        Other threads that use the cache wait until it is created.
        """
        with self.lock:
            value = self.pop(key) if key in self else make()
            self[key] = value
            if len(self) > self._most:
                del self[next(iter(self))]
            return value
