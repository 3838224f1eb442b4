"""The base class of optional properties of a denoiser, each with its check, its files and its description.

They read other properties of the denoiser through `DescriptionProtocol`, which the manifest's `Description` implements.
The manifest imports the optional properties, so they cannot import the manifest.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal, Protocol, Self

from fewstep.plans.spec import Strict
from fewstep.runtime.kinds.condition import Condition
from fewstep.runtime.kinds.graph_entry import GraphEntry, TensorEntry

NUMBERS_SHOWN = 16


class HasName(Protocol):
    """An object with a name, such as a tensor."""

    @property
    def name(self) -> str: ...


class FreeAxis(Strict, frozen=True):
    """An axis of x with a free size. A caller may choose a multiple of `multiple` from `low` to `high`, both included.

    `axis` is an index into `x_shape`, which has the default size there. It is None for the length of a text, an axis of
    conditions only, whose default is `usual`. Each branch of guidance may have another length, unless all have that of
    the conditional one (`of_prompt`).
    """

    name: str
    axis: int | None
    low: int
    high: int
    multiple: int = 1
    usual: int | None = None
    of_prompt: bool = False

    def default(self, x_shape: Sequence[int]) -> int:
        """Return its default size."""
        return (self.usual or self.high) if self.axis is None else x_shape[self.axis]

    @property
    def range(self) -> str:
        """Its range as text: "height 32 to 128 in steps of 8", or "length 40 to 400"."""
        steps = f" in steps of {self.multiple}" if self.multiple > 1 else ""
        return f"{self.name} {self.low} to {self.high}{steps}"

    def takes(self, size: int) -> bool:
        """Return True if a caller may choose this size."""
        return self.low <= size <= self.high and size % self.multiple == 0


class UnitsAxis(Protocol):
    """An object that knows along which axis of x the physical units differ; None if they differ along all."""

    @property
    def axis(self) -> int | None: ...


class PositionAxis(Protocol):
    """The axis of x whose positions have separate times."""

    def places(self, of: "DescriptionProtocol") -> int: ...


class Logits(Protocol):
    """An object that knows which axes a prediction has after those of x."""

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


class Kind(Strict, frozen=True):
    """Base class of properties that only some denoisers have.

    FIX: the fix of an error: what to set in a Spec.
    NOUN: the name of the property in the error for a bundle of experts that cannot have it.
    EXPERTS: whether a bundle's experts "share" the property, are "without" it, or must not exist ("none").
    SECOND_TIME: whether a network that takes two times may have the property.
    """

    FIX: ClassVar[str] = ""
    NOUN: ClassVar[str] = ""
    EXPERTS: ClassVar[Literal["share", "without", "none"]] = "share"
    SECOND_TIME: ClassVar[bool] = True

    def problem(self, of: DescriptionProtocol) -> str | None:
        """Return what is wrong with this property of the denoiser `of`, as text, or None if nothing is."""
        return None

    def mistake(self, of: DescriptionProtocol) -> str | None:
        """Return what is wrong with this property in a new Spec but allowed in older bundles, as text, or None if
        nothing is."""
        return None

    def ports(self) -> tuple[tuple[TensorEntry, ...], tuple[TensorEntry, ...]]:
        """Return the inputs and the outputs that the property adds to a body."""
        return (), ()

    def companions(self) -> Mapping[str, GraphEntry]:
        """Return the graphs that belong to the property, by name."""
        return {}

    def with_companions(self, graphs: Mapping[str, GraphEntry]) -> Self:
        """Return the property with other graphs, by the names of `companions`. Those that are not named stay."""
        return self

    def files(self) -> Sequence[str]:
        """Return the paths of the property's files in the bundle, except graphs."""
        return ()

    def describe(self, of: DescriptionProtocol) -> str:
        """Return the line that describes the property in `fewstep inspect`, without its graphs."""
        return ""


def kinds(of: DescriptionProtocol) -> Iterator[tuple[str, Kind]]:
    """Yield the optional properties that a denoiser has, each with the name of its field."""
    for field in of.__struct_fields__:
        value = getattr(of, field)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Kind):
                yield field, item


def companions(of: DescriptionProtocol) -> dict[str, GraphEntry]:
    """Return the graphs that belong to a denoiser's optional properties, by name."""
    return {name: graph for _, kind in kinds(of) for name, graph in kind.companions().items()}


def format_numbers(values: Sequence[float]) -> str:
    """Format numbers as comma-separated text with four significant digits. Only the first NUMBERS_SHOWN are listed; the
    others are counted."""
    more = len(values) - NUMBERS_SHOWN
    return ", ".join(f"{value:.4g}" for value in values[:NUMBERS_SHOWN]) + (f" and {more} more" if more > 0 else "")
