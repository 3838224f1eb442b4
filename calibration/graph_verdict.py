"""Whether a body runs its own form of a graph that all bodies share, and if not, why not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import inf, log10
from statistics import fmean

from fewstep.calibration.policy import CalibrationPolicy
from fewstep.measure.rollouts.nearness import LEAST_PSNR, Nearness
from fewstep.measure.rollouts.quality_range import mean_range
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

    def losses(self, best: float = inf) -> list[float]:
        """Return the loss in dB of each seed, next to other errors that leave at most `best` dB."""
        return [_lost(before, after, best) for before, after in zip(self.before, self.after, strict=True)]

    @property
    def near(self) -> Nearness:
        return self.nearness(fmean(self.alone))

    def nearness(self, mean: float) -> Nearness:
        """Return the figures of a mean PSNR of these samples in dB."""
        return Nearness(mean, None if self.signal is None else mean + self.signal, self.unrelated)


@dataclass(frozen=True)
class Losses:
    """What graphs of its own cost a body, in dB: as its samples or pictures are, and `hidden` next to other errors that
    leave at most `CalibrationPolicy.enough_psnr`."""

    seen: float = 0.0
    hidden: float = 0.0

    def add(self, other: "Losses") -> "Losses":
        """Return the sum. A gain makes no room for other losses."""
        return Losses(self.seen + max(0.0, other.seen), self.hidden + max(0.0, other.hidden))


@dataclass(frozen=True)
class GraphVerdict:
    """The quality of samples, or of what is decoded from them, with a graph in a coarser form, against float32's.

    form: such as "int8". seen: "samples", "pictures", "videos" or "sounds". judged: the score by the user's judge,
    which decides instead of PSNR; None without one. worth: the loss in dB that the form's savings are worth. saved:
    what it saves, as text. before: what other graphs of the body have cost.
    """

    form: str
    seen: str
    quality: PairedQuality
    judged: JudgeScore | None
    worth: float
    saved: str
    before: Losses
    policy: CalibrationPolicy

    @property
    def losses(self) -> Losses:
        return Losses(*(fmean(losses) for losses in self._losses))

    @property
    def _losses(self) -> tuple[list[float], list[float]]:
        return self.quality.losses(), self.quality.losses(self.policy.enough_psnr)

    @property
    def is_taken(self) -> bool:
        """Whether the form costs no more than it may."""
        if self.judged is not None:
            return self.judged.is_certain
        return self._accepts(self.losses.seen, self.before.seen, self.quality.near)

    @property
    def is_hidden(self) -> bool:
        """Whether it costs no more than it may next to other errors that leave at most `enough_psnr`."""
        return self.judged is None and self._accepts(self.losses.hidden, self.before.hidden, self.quality.near)

    @property
    def is_certain(self) -> bool:
        """Whether other seeds would decide alike: at both ends of the ranges of the losses and of the PSNR. The user's
        measure decides by its own score, to which further values of PSNR add nothing."""
        if self.judged is not None:
            return True
        seen, hidden, means = *map(mean_range, self._losses), mean_range(self.quality.alone)
        if seen is None or hidden is None or means is None:
            return False
        nears = [self.quality.nearness(mean) for mean in means]
        if all(self._accepts(loss, self.before.seen, near) for loss, near in product(seen, nears)):
            return True  # the coarsest form that is taken needs no other reason
        ends = [(seen, self.before.seen, self.is_taken), (hidden, self.before.hidden, self.is_hidden)]
        return all(
            self._accepts(loss, spent, near) == is_accepted
            for losses, spent, is_accepted in ends
            for loss, near in product(losses, nears)
        )

    def _accepts(self, loss: float, spent: float, near: Nearness) -> bool:
        return near.is_enough and loss <= min(self.limit, self.policy.most_graph_loss - spent)

    @property
    def limit(self) -> float:
        """The loss in dB up to which the form is worth it."""
        return max(self.worth, self.policy.tolerated_loss)

    @property
    def loss_text(self) -> str:
        """The loss and its range: "1.8 dB (1.5 to 2.1)"."""
        ends, loss = mean_range(self._losses[0]), self.losses.seen
        return f"{loss:.1f} dB" if ends is None else f"{loss:.1f} dB ({ends[0]:.1f} to {ends[1]:.1f})"

    @property
    def reason(self) -> str:
        """Why the graph stays float32, if it is not taken, and what may change that."""
        form, seen, near, seeds = self.form, self.seen, self.quality.near, len(self.quality.after)
        if self.judged is not None:
            unsure = ", but perhaps not on others" if self.judged.score.is_kept else ""
            return f"in {form} it {self.judged.text}, on {self.judged.seeds} seeds{unsure}"
        own_judge = "; --judge lets your own measure decide instead of dB" if seen == "samples" else ""
        before, most = fmean(self.quality.before), self.policy.most_graph_loss
        if before < LEAST_PSNR and not near.is_enough:
            return f"the {seen} have only {before:.1f} dB without it{own_judge}"
        if not near.is_enough:
            return f"in {form} the {seen} are {near.describe('float32')}{own_judge}"
        cost = f"{form} would cost {self.loss_text} of the {seen} of {seeds} seeds, for {self.saved}"
        if self.losses.hidden > self.limit:
            return cost
        return f"{cost}; the networks around the denoiser may cost {most:g} dB together{own_judge}"


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


def _lost(before: float, after: float, best: float) -> float:
    """Return the loss in dB from one PSNR to another, if errors beside the lost one leave at most `best` dB."""
    if before <= best:
        return before - after
    return 10 * log10(1 + (10 ** (-after / 10) - 10 ** (-before / 10)) * 10 ** (best / 10))
