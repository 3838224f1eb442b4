"""Whether a body runs its own form of a graph that all bodies share, and if not, why not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean

from fewstep.measure.rollouts.nearness import LEAST_PSNR, NEAR_PSNR, Nearness
from fewstep.measure.rollouts.quality_range import Range, mean_range
from fewstep.runtime.bundle.figures import JudgeScore


@dataclass(frozen=True)
class PairedQuality:
    """The PSNR in dB against float32 of the same samples or pictures, one number for each seed.

    before, after: without and with another form of a graph. alone: what the lower limits apply to: `after`, or the
    pictures of an encoder alone. signal: by how many dB the signal-to-noise ratio of samples exceeds their PSNR; None
    if it is unknown. unrelated: the mean PSNR of another seed's sample; None if it is unknown.
    """

    before: Sequence[float]
    after: Sequence[float]
    alone: Sequence[float]
    signal: float | None = None
    unrelated: float | None = None

    def join(self, others: "PairedQuality") -> "PairedQuality":
        """Return the quality on these seeds and on those of `others`, with the signal of these."""
        return replace(
            self,
            before=(*self.before, *others.before),
            after=(*self.after, *others.after),
            alone=(*self.alone, *others.alone),
        )

    @property
    def losses(self) -> list[float]:
        return [before - after for before, after in zip(self.before, self.after, strict=True)]

    @property
    def near(self) -> Nearness:
        return self.nearness(fmean(self.alone))

    def nearness(self, mean: float) -> Nearness:
        """Return the figures of a mean PSNR of these samples in dB."""
        return Nearness(mean, None if self.signal is None else mean + self.signal, self.unrelated)


@dataclass(frozen=True)
class GraphVerdict:
    """The quality of samples, or of what is decoded from them, with a graph in a coarser form, against float32's.

    form: such as "int8". seen: "samples", "pictures", "videos" or "sounds". judged: the score by the user's judge,
    which decides instead of PSNR; None without one. most_loss: the loss in dB that the form is worth. tolerated_loss:
    the loss in dB that is always accepted. saved: what the form saves, as text.
    """

    form: str
    seen: str
    quality: PairedQuality
    judged: JudgeScore | None
    most_loss: float
    tolerated_loss: float
    saved: str

    @property
    def loss(self) -> float:
        return fmean(self.quality.losses)

    @property
    def loss_range(self) -> Range | None:
        """The range of the mean loss on other seeds; None for few seeds."""
        return mean_range(self.quality.losses)

    @property
    def is_taken(self) -> bool:
        if self.judged is not None:
            return self.judged.is_certain
        return self._accepts(self.loss, self.quality.near)

    @property
    def is_certain(self) -> bool:
        """Whether other seeds would decide alike: at both ends of the ranges of the loss and of the PSNR. The user's
        measure decides by its own score, to which further values of PSNR add nothing."""
        if self.judged is not None:
            return True
        losses, means = self.loss_range, mean_range(self.quality.alone)
        if losses is None or means is None:
            return False
        ends = product(losses, map(self.quality.nearness, means))
        return all(self._accepts(loss, near) == self.is_taken for loss, near in ends)

    def _accepts(self, loss: float, near: Nearness) -> bool:
        return near.is_enough and self._is_near(loss, near) and self._is_worth(loss)

    def _is_near(self, loss: float, near: Nearness) -> bool:
        return near.psnr >= NEAR_PSNR or loss <= self.tolerated_loss

    def _is_worth(self, loss: float) -> bool:
        return loss < max(self.most_loss, self.tolerated_loss)

    @property
    def loss_text(self) -> str:
        """The loss and its range: "1.8 dB (1.5 to 2.1)"."""
        ends = self.loss_range
        return f"{self.loss:.1f} dB" if ends is None else f"{self.loss:.1f} dB ({ends[0]:.1f} to {ends[1]:.1f})"

    @property
    def reason(self) -> str:
        """Why the graph stays float32, if it is not taken, and what may change that."""
        form, seen, near, seeds = self.form, self.seen, self.quality.near, len(self.quality.after)
        if self.judged is not None:
            unsure = ", but perhaps not on others" if self.judged.score.is_kept else ""
            return f"in {form} it {self.judged.text}, on {self.judged.seeds} seeds{unsure}"
        own_judge = "; --judge lets your own measure decide instead of dB" if seen == "samples" else ""
        before = fmean(self.quality.before)
        if before < LEAST_PSNR and not near.is_enough:
            return f"the {seen} have only {before:.1f} dB without it{own_judge}"
        if not near.is_enough:
            return f"in {form} the {seen} are {near.describe('float32')}{own_judge}"
        if self._is_worth(self.loss) and not self._is_near(self.loss, near):
            return (
                f"in {form} the {seen} have {near.psnr:.1f} dB, less than {NEAR_PSNR:g} dB, with a loss of "
                f"{self.loss_text} on {seeds} seeds{own_judge}"
            )
        return f"{form} would cost {self.loss_text} of the {seen} of {seeds} seeds, for {self.saved}"


def decide(first: GraphVerdict, further: Iterable[PairedQuality]) -> GraphVerdict:
    """Return the verdict with the quality on further seeds, which are judged until it is certain. If it never is, the
    mean over all seeds decides."""
    verdict = first
    if verdict.is_certain:
        return verdict
    for quality in further:
        verdict = replace(verdict, quality=verdict.quality.join(quality))
        if verdict.is_certain:
            break
    return verdict
