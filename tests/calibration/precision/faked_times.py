"""How long graphs take in these tests, so that no real time decides what a search finds."""

from collections.abc import Callable, Collection

import pytest

from fewstep.calibration.precision import refine, sensitivity
from fewstep.calibration.precision.variants import Variants
from fewstep.graph.session import GraphSession

Floats = frozenset[str]  # names of operations in float
BORDER, FLOAT = 0.1, 0.06  # what a step takes longer for each run of operations in float, and for each operation


class Clock:
    """`time` is that of a step with a graph, relative to all int8; `timed` has what was timed, in its order;
    `operations` are all there are."""

    def __init__(self) -> None:
        self.timed: list[Floats] = []
        self.operations: tuple[str, ...] = ()
        self.time: Callable[[Floats], float] = self.with_borders

    def with_borders(self, floats: Floats) -> float:
        """A run of operations in float has a border to int8: four single ones cost 0.64 together, float32 0.24."""
        inside = [name in floats for name in self.operations]
        runs = sum(now and not before for before, now in zip([False, *inside], inside, strict=False))
        return 1 + FLOAT * len(floats) + BORDER * runs * (not all(inside))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the place of the real measurement, wherever a search asks for it."""
        opened = Variants.open

        def named(variants: Variants, in_float: Collection[str] = ()) -> GraphSession:
            session = opened(variants, in_float)
            self.operations = variants.operations
            session.in_float = frozenset(in_float)  # type: ignore[attr-defined]
            return session

        def slowdown(course: object, base: GraphSession, other: GraphSession, rounds: int = 0) -> float:
            assert not base.in_float  # type: ignore[attr-defined]
            self.timed.append(other.in_float)  # type: ignore[attr-defined]
            return self.time(self.timed[-1])

        monkeypatch.setattr(Variants, "open", named)
        monkeypatch.setattr(sensitivity, "slowdown", slowdown)
        monkeypatch.setattr(refine, "slowdown", slowdown)
