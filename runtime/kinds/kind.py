"""The base class of optional properties of a denoiser, each with its check, its files and its description."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from fewstep.plans.spec import Strict
from fewstep.runtime.kinds.description import DescriptionProtocol
from fewstep.runtime.kinds.graph_entry import GraphEntry, TensorEntry

NUMBERS_SHOWN = 16


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
        """Return what is wrong with the property in the denoiser `of`, or None."""
        return None

    def mistake(self, of: DescriptionProtocol) -> str | None:
        """Return a fault that a new Spec must not have but older bundles may have, or None."""
        return None

    def ports(self) -> tuple[tuple[TensorEntry, ...], tuple[TensorEntry, ...]]:
        """Return the inputs and the outputs that the property adds to a body."""
        return (), ()

    def companions(self) -> Mapping[str, GraphEntry]:
        """Return the graphs that belong to the property, by name."""
        return {}

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
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Kind):
                yield field, each


def companions(of: DescriptionProtocol) -> dict[str, GraphEntry]:
    """Return the graphs that belong to a denoiser's optional properties, by name."""
    return {name: graph for _, kind in kinds(of) for name, graph in kind.companions().items()}


def format_numbers(values: Sequence[float]) -> str:
    """Format numbers as text. If there are more than NUMBERS_SHOWN, only the first of them are shown."""
    more = len(values) - NUMBERS_SHOWN
    return ", ".join(f"{value:.4g}" for value in values[:NUMBERS_SHOWN]) + (f" and {more} more" if more > 0 else "")
