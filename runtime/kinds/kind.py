"""Kinds of denoiser, each with its check, its files and its words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from fewstep.plans.spec import Strict
from fewstep.runtime.kinds.graph_entry import GraphEntry, TensorEntry

if TYPE_CHECKING:
    from fewstep.runtime.bundle.manifest import Description

NUMBERS_SHOWN = 16


class Kind(Strict, frozen=True):
    """The base of what only some denoisers have.

    FIX: what a Spec is to give. NOUN: what a bundle of experts is told that it cannot have. EXPERTS: experts of the
    bundle share it, do without it, or there are none.
    """

    FIX: ClassVar[str] = ""
    NOUN: ClassVar[str] = ""
    EXPERTS: ClassVar[Literal["share", "without", "none"]] = "share"

    def problem(self, of: "Description") -> str | None:
        """Its fault in a denoiser, or None."""
        return None

    def mistake(self, of: "Description") -> str | None:
        """A fault that no Spec may have, and that bundles of before may, or None."""
        return None

    def ports(self) -> tuple[tuple[TensorEntry, ...], tuple[TensorEntry, ...]]:
        """The inputs and the outputs of a body for it."""
        return (), ()

    def companions(self) -> Mapping[str, GraphEntry]:
        """Its graphs next to the denoiser, by what they are called."""
        return {}

    def files(self) -> Sequence[str]:
        """The paths of its files in the bundle, graphs apart."""
        return ()

    def describe(self, of: "Description") -> str:
        """Its line in `fewstep inspect`, graphs apart."""
        return ""


def kinds(of: "Description") -> Iterator[tuple[str, Kind]]:
    """The kinds that a denoiser is of, each with the name of its field."""
    for field in of.__struct_fields__:
        value = getattr(of, field)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Kind):
                yield field, each


def format_numbers(values: Sequence[float]) -> str:
    """Numbers in words, the first of many."""
    more = len(values) - NUMBERS_SHOWN
    return ", ".join(f"{value:.4g}" for value in values[:NUMBERS_SHOWN]) + (f" and {more} more" if more > 0 else "")
