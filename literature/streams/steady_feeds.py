"""The body's inputs that lanes share: a steady stream has the same inputs at each frame, and joins them once."""

from collections import deque
from collections.abc import Sequence

from fewstep.runtime.backends import Arrays
from fewstep.runtime.mixed_plans import joined


class SteadyFeeds:
    """Joins the inputs of lanes, and keeps as many results as a pump of all lanes has calls."""

    def __init__(self, shared: Sequence[str], calls: int) -> None:
        self._shared = shared
        self._results: deque[tuple[Sequence[Arrays], Arrays]] = deque(maxlen=calls)

    def __call__(self, fed: Sequence[Arrays]) -> Arrays:
        """The joined inputs. Identity tells inputs apart: their makers never change them."""
        for parts, whole in self._results:
            if len(parts) == len(fed) and all(one is other for one, other in zip(parts, fed, strict=True)):
                return whole
        whole = joined(fed, self._shared)
        self._results.append((fed, whole))
        return whole
