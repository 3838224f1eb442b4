"""The values that were used last, as of the sizes that a graph was opened for."""

from collections.abc import Callable
from threading import RLock
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class LruCache(dict[Key, Value]):
    """Up to `most` values by key, the last used at the end. Threads may share it. Two steps are one to whoever holds
    `lock` over both."""

    def __init__(self, most: float) -> None:
        self._most, self.lock = most, RLock()

    def get_or_make(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made where it is not there; the one that was used longest ago gives way to it. Whoever
        comes meanwhile waits."""
        with self.lock:
            value = self.pop(key) if key in self else make()
            self[key] = value
            if len(self) > self._most:
                del self[next(iter(self))]
            return value
