"""Token denoisers, whose x are ids."""

from typing import TYPE_CHECKING, ClassVar

from fewstep.runtime.kinds.kind import Kind

if TYPE_CHECKING:
    from fewstep.runtime.bundle.manifest import Description


class Vocabulary(Kind, frozen=True):
    """The ids of a token denoiser, 0 to size - 1. It returns a logit for each.

    The network sees the id `mask` at open positions. `mask` may be one of the ids or a larger number.
    """

    FIX: ClassVar = "give Vocabulary(size, mask) and prediction='logits', or neither"
    NOUN: ClassVar = "a vocabulary"
    EXPERTS: ClassVar = "none"

    size: int
    mask: int

    def problem(self, of: "Description") -> str | None:
        if of.prediction != "logits":
            return f"a denoiser that predicts {of.prediction} has a vocabulary"
        if self.size < 2 or self.mask < 0 or of.heads > 1:
            return f"a vocabulary of {self.size} ids, mask {self.mask}, in {of.heads} heads"
        others = {"carried tensors": of.carried, "named outputs": of.outputs}
        return next((f"a token denoiser cannot have {what}" for what, has in others.items() if has), None)

    def describe(self, of: "Description") -> str:
        return f"tokens of {self.size} ids, {self.mask} where a position is open"
