"""What the properties of a denoiser read of its other facts. The manifest's `Description` has all of them.

The manifest imports the properties, so they do not import the manifest.
"""

from collections.abc import Sequence
from typing import Protocol

from fewstep.runtime.kinds.condition import Condition


class HasName(Protocol):
    """A tensor with a name."""

    @property
    def name(self) -> str: ...


class FreeAxis(Protocol):
    """A free axis of x. `range` is its range as text."""

    @property
    def name(self) -> str: ...

    @property
    def axis(self) -> int: ...

    @property
    def low(self) -> int: ...

    @property
    def high(self) -> int: ...

    @property
    def multiple(self) -> int: ...

    @property
    def range(self) -> str: ...


class UnitsAxis(Protocol):
    """The axis of x along which units differ."""

    @property
    def axis(self) -> int: ...


class PositionAxis(Protocol):
    """The axis of x whose places have separate times."""

    def places(self, of: "DescriptionProtocol") -> int: ...


class Logits(Protocol):
    """The axes of a prediction after those of x."""

    @property
    def logits(self) -> tuple[int, ...]: ...


class DescriptionProtocol(Protocol):
    """A denoiser's interface and meaning, as far as its optional properties depend on them."""

    @property
    def __struct_fields__(self) -> tuple[str, ...]: ...

    @property
    def name(self) -> str: ...

    @property
    def x_shape(self) -> tuple[int, ...]: ...

    @property
    def conditions(self) -> tuple[Condition, ...]: ...

    @property
    def prediction(self) -> str: ...

    @property
    def heads(self) -> int: ...

    @property
    def towards(self) -> str | None: ...

    @property
    def positions(self) -> PositionAxis | None: ...

    @property
    def units(self) -> UnitsAxis | None: ...

    @property
    def sizes(self) -> Sequence[FreeAxis]: ...

    @property
    def carried(self) -> Sequence[HasName]: ...

    @property
    def outputs(self) -> Sequence[HasName]: ...

    @property
    def self_condition(self) -> bool: ...

    @property
    def space(self) -> Logits: ...
