"""Tensors that a network returns besides its prediction, or that are carried from step to step or from run to run."""

from typing import ClassVar, Literal

from msgspec import structs

from fewstep.runtime.kinds.graph_entry import CARRIED, NAMED, NEXT, TensorEntry
from fewstep.runtime.kinds.kind import DescriptionProtocol, Kind


class NamedTensor(Kind, frozen=True):
    """Base class of named tensors with `shape` per sample. The inputs and outputs of the body have these names after a
    prefix: carried_, next_ or named_."""

    name: str
    shape: tuple[int, ...]

    def problem(self, of: DescriptionProtocol) -> str | None:
        if not self.name.isidentifier() or any(size < 1 for size in self.shape):
            return f"{self.name!r} of shape {list(self.shape)}"
        if [port.name for port in (*of.carried, *of.outputs)].count(self.name) > 1:
            return f"two tensors are named {self.name!r}"
        return None


class NamedOutput(NamedTensor, frozen=True):
    """A tensor that a denoiser returns besides its prediction, float32 of `shape` per sample. No step reads it.

    Examples are a mask, a depth map, or the logits of a class.
    """

    FIX: ClassVar = "give a tuple of NamedOutput(name, shape), and no sizes"
    NOUN: ClassVar = "named outputs"
    EXPERTS: ClassVar = "none"

    @property
    def dtype(self) -> str:
        return "float32"

    def problem(self, of: DescriptionProtocol) -> str | None:
        return "named outputs and free sizes" if of.sizes else super().problem(of)

    def ports(self) -> tuple[tuple[TensorEntry, ...], tuple[TensorEntry, ...]]:
        return (), (TensorEntry(NAMED + self.name, "named", ("batch", *self.shape)),)

    def describe(self, of: DescriptionProtocol) -> str:
        return f"returns {self.name} {list(self.shape)} besides the prediction"


class Carried(NamedTensor, frozen=True):
    """A tensor of `shape` per sample that a denoiser takes and returns besides x, and that is carried from run to run.

    The first run begins with zeros.

    bank: which evaluations write it. A bank "step" has a slot for each evaluation of a plan: an evaluation reads what
        the same evaluation of the previous run wrote. A bank "sample" has one slot. All evaluations read it, and one
        additional evaluation, of the sample at the cleanest time, writes it.
    """

    FIX: ClassVar = "give a tuple of Carried(name, shape), with banks of 'step' or 'sample'"
    NOUN: ClassVar = "carried tensors"
    EXPERTS: ClassVar = "none"

    bank: Literal["step", "sample"] = "step"
    dtype: Literal["float32", "int64"] = "float32"

    def ports(self) -> tuple[tuple[TensorEntry, ...], tuple[TensorEntry, ...]]:
        into = TensorEntry(CARRIED + self.name, "carried", ("batch", *self.shape), self.dtype)
        return (into,), (structs.replace(into, name=NEXT + self.name),)

    def describe(self, of: DescriptionProtocol) -> str:
        to = "each step to that step" if self.bank == "step" else "the sample to all steps"
        return f"carries {self.name} {list(self.shape)}, {self.dtype}, from {to} of the next run"


class Features(Kind, frozen=True):
    """Inner features of a denoiser for feature caching: the full network returns them, and the light network reads them
    instead of computing them. Plans carry them from step to step (`plans.light_steps`).

    shape: per sample; an axis that depends on a free size has an expression such as "height/2".
    cut: the name of the cut (`graph.cuts.feature_cuts`).
    share: multiply-adds of the light network as a fraction of those of the full network.
    is_read: whether this network reads the features. If so, it is the light network.
    """

    NOUN: ClassVar = "a light network"

    name: str
    shape: tuple[int | str, ...]
    cut: str
    share: float
    is_read: bool = False

    def problem(self, of: DescriptionProtocol) -> str | None:
        if not self.name.isidentifier() or not 0 <= self.share <= 1:
            return f"{self.name!r} of {self.share} of the work"
        return None

    def ports(self) -> tuple[tuple[TensorEntry, ...], tuple[TensorEntry, ...]]:
        port = TensorEntry((CARRIED if self.is_read else NEXT) + self.name, "carried", ("batch", *self.shape))
        return ((port,), ()) if self.is_read else ((), (port,))

    def describe(self, of: DescriptionProtocol) -> str:
        shape = ", ".join(map(str, self.shape))
        verb = "reads" if self.is_read else "returns"
        return f"{verb} {self.name} [{shape}] of the cut {self.cut}: light steps take {self.share:.0%} of the work"
