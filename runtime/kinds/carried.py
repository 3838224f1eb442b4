"""Tensors that go from run to run, such as keys and values."""

from typing import TYPE_CHECKING, ClassVar, Literal

from fewstep.runtime.graph_entry import CARRIED, NEXT, TensorEntry
from fewstep.runtime.kinds.named_tensor import NamedTensor

if TYPE_CHECKING:
    from fewstep.runtime.bundle.manifest import Description


class Carried(NamedTensor, frozen=True):
    """A tensor that a denoiser takes and returns beside x, one of `shape` per sample, which is carried from run to run.
    The first run begins with zeros.

    bank: which evaluations write it. "step" is a bank with a slot for each evaluation of a plan: it reads what the same
    evaluation of the run before wrote. "sample" is one slot, which all evaluations read; one more evaluation, of the
    sample at the cleanest time, writes it.
    """

    FIX: ClassVar = "give a tuple of Carried(name, shape), with banks of 'step' or 'sample'"
    EXPERTS: ClassVar = "none"

    bank: Literal["step", "sample"] = "step"
    dtype: Literal["float32", "int64"] = "float32"

    def inputs(self) -> tuple[TensorEntry, ...]:
        return (TensorEntry(CARRIED + self.name, "carried", ("batch", *self.shape), self.dtype),)

    def outputs(self) -> tuple[TensorEntry, ...]:
        return (TensorEntry(NEXT + self.name, "carried", ("batch", *self.shape), self.dtype),)

    def words(self, of: "Description") -> str:
        to = "each step to that step" if self.bank == "step" else "the sample to all steps"
        return f"carries {self.name} {list(self.shape)}, {self.dtype}, from {to} of the next run"
