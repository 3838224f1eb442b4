"""Whether a body runs its own form of a graph that all bodies share, and if not, why not."""

from dataclasses import dataclass

from fewstep.measure.rollouts.nearness import LEAST_PSNR, NEAR_PSNR, Nearness
from fewstep.runtime.bundle.figures import JudgeScore


@dataclass(frozen=True)
class GraphVerdict:
    """The quality of samples or of pictures with a graph in a coarser form, against float32's.

    form: such as "int8". seen: "samples" or "pictures". before, after: their PSNR in dB without and with the form.
    near: their figures with it; of an encoder of images, those of the encoder alone. judged: the score by the user's
    judge, which decides instead of PSNR; None without one. most_loss: the loss in dB that the form is worth.
    tolerated_loss: the loss in dB that is always accepted. saved: what the form saves, as text. seeds: how many judged
    it.
    """

    form: str
    seen: str
    before: float
    after: float
    near: Nearness
    judged: JudgeScore | None
    most_loss: float
    tolerated_loss: float
    saved: str
    seeds: int

    @property
    def loss(self) -> float:
        return self.before - self.after

    @property
    def is_taken(self) -> bool:
        if self.judged is not None:
            return self.judged.is_certain
        return self.near.is_enough and self._is_near and self._is_worth

    @property
    def _is_near(self) -> bool:
        return self.near.psnr >= NEAR_PSNR or self.loss <= self.tolerated_loss

    @property
    def _is_worth(self) -> bool:
        return self.loss < max(self.most_loss, self.tolerated_loss)

    @property
    def reason(self) -> str:
        """Why the graph stays float32, if it is not taken, and what may change that."""
        form, seen = self.form, self.seen
        if self.judged is not None:
            unsure = ", but perhaps not on others" if self.judged.score.is_kept else ""
            return f"in {form} it {self.judged.text}, on {self.judged.seeds} seeds{unsure}"
        own_judge = "; --judge lets your own measure decide instead of dB" if seen == "samples" else ""
        if self.before < LEAST_PSNR and not self.near.is_enough:
            return f"the {seen} have only {self.before:.1f} dB without it{own_judge}"
        if not self.near.is_enough:
            return f"in {form} the {seen} are {self.near.describe('float32')}{own_judge}"
        if self._is_worth and not self._is_near:
            return (
                f"in {form} the {seen} have {self.near.psnr:.1f} dB, less than {NEAR_PSNR:g} dB, with a loss of "
                f"{self.loss:.1f} dB on {self.seeds} seeds{own_judge}"
            )
        return f"{form} would cost {self.loss:.1f} dB of the {seen} of {self.seeds} seeds, for {self.saved}"
