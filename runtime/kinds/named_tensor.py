"""Tensors of their own shape that a network returns next to its prediction."""

from typing import TYPE_CHECKING, ClassVar

from fewstep.runtime.graph_entry import NAMED, TensorEntry
from fewstep.runtime.kinds.kind import Kind

if TYPE_CHECKING:
    from fewstep.runtime.bundle.manifest import Description


class NamedTensor(Kind, frozen=True):
    """Base of tensors of `shape` per sample, which ports of the body are named after."""

    name: str
    shape: tuple[int, ...]

    def problem(self, of: "Description") -> str | None:
        if not self.name.isidentifier() or any(size < 1 for size in self.shape):
            return f"{self.name!r} of shape {list(self.shape)}"
        if [each.name for each in (*of.carried, *of.outputs)].count(self.name) > 1:
            return f"two tensors are named {self.name!r}"
        return None


class NamedOutput(NamedTensor, frozen=True):
    """A tensor that a denoiser returns beside its prediction, float32 of `shape` per sample, and that no step reads:
    a mask, a depth, the logits of a class."""

    FIX: ClassVar = "give a tuple of NamedOutput(name, shape), and no sizes"
    EXPERTS: ClassVar = "none"

    @property
    def dtype(self) -> str:
        return "float32"

    def problem(self, of: "Description") -> str | None:
        return "named outputs and free sizes" if of.sizes else super().problem(of)

    def outputs(self) -> tuple[TensorEntry, ...]:
        return (TensorEntry(NAMED + self.name, "named", ("batch", *self.shape)),)

    def words(self, of: "Description") -> str:
        return f"returns {self.name} {list(self.shape)} beside the prediction"
