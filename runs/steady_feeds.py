"""The body's inputs that lanes share: in a steady stream they are the same ones at each frame, and joined once."""

from collections import deque
from collections.abc import Sequence

from fewstep.runtime.mixed_plans import Feeds, joined


class SteadyFeeds:
    """Joins the inputs of lanes, and keeps the last results: as many as a pump of all lanes has calls."""

    def __init__(self, shared: Sequence[str], calls: int) -> None:
        self._shared = shared
        self._kept: deque[tuple[Sequence[Feeds], Feeds]] = deque(maxlen=calls)

    def __call__(self, fed: Sequence[Feeds]) -> Feeds:
        """Inputs are known by their identity: whoever makes them never changes them."""
        for known, made in self._kept:
            if len(known) == len(fed) and all(one is other for one, other in zip(known, fed, strict=True)):
                return made
        made = joined(fed, self._shared)
        self._kept.append((fed, made))
        return made
