"""A separate time for each position of a sample, for denoisers whose samples continue from run to run."""

from typing import ClassVar

from fewstep.plans.spec import Stairs
from fewstep.runtime.kinds.kind import DescriptionProtocol, Kind


class Positions(Kind, frozen=True, omit_defaults=True):
    """Positions along an axis of x, each with a separate time. The network's time is [B, positions].

    A run of a plan finishes the first `leaves` positions, and the next run continues with the positions after them
    (`plans.continuation`). If `leaves` is the number of positions, a run is a whole sample. The first `kept` positions
    were finished by earlier runs; the network still sees them, at the cleanest time.
    """

    FIX: ClassVar = "give Positions(axis, leaves), where leaves and kept divide the places of x along the axis"
    NOUN: ClassVar = "a time for each position"
    EXPERTS: ClassVar = "none"
    SECOND_TIME: ClassVar = False

    axis: int  # axis of one sample, counted as in Python
    leaves: int
    kept: int = 0

    def problem(self, of: DescriptionProtocol) -> str | None:
        shape = of.x_shape
        if not -len(shape) <= self.axis < len(shape):
            return f"samples {list(shape)} have no axis {self.axis}"
        places = shape[self.axis]
        if self.leaves < 1 or self.kept < 0 or places % self.leaves or self.kept % self.leaves or self.kept >= places:
            return f"leaves={self.leaves} and kept={self.kept} do not divide {places} positions"
        others = {
            "a vocabulary": of.space.logits,
            "carried tensors": of.carried,
            "sizes": of.sizes,
            "towards": of.towards,
        }
        return next(
            (f"a time for each position cannot be combined with {what}" for what, has in others.items() if has), None
        )

    def places(self, of: DescriptionProtocol) -> int:
        """Return the number of positions."""
        return of.x_shape[self.axis]

    def stairs(self, of: DescriptionProtocol) -> Stairs:
        """Return what plan compilation needs to know about the positions: their axis, their number, and how they enter
        and leave."""
        return Stairs(self.axis % len(of.x_shape) - len(of.x_shape), self.places(of), self.leaves, self.kept)

    def describe(self, of: DescriptionProtocol) -> str:
        kept = f", after {self.kept} that are kept" if self.kept else ""
        return f"a time for each of {self.places(of)} places along axis {self.axis}; a run finishes {self.leaves}{kept}"


def time_shape(of: DescriptionProtocol) -> tuple[int, ...]:
    """Return the shape of a sample's time."""
    return () if of.positions is None else (of.positions.places(of),)
