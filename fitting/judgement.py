"""The comparison of a fitted plan with the teacher, on seeds that were not used for fitting or for choosing the
plan."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fewstep.fitting.blocks import Block
from fewstep.fitting.feature_tradeoff import feature_distances
from fewstep.fitting.levenberg_marquardt import ERRORS, Gain
from fewstep.fitting.rollouts import FitSampler
from fewstep.measure.distances.features import Extractor
from fewstep.measure.distances.frechet import SetComparison, compare_sets
from fewstep.measure.judges.judge import Judge, SamplePairs
from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.figures import JudgeScore
from fewstep.runtime.sampling.execute import Array

RESAMPLES = 100  # resamples of the seeds, for standard errors of FD


@dataclass(frozen=True)
class FitScore:
    """The score of a fitted plan by the user's judge, with the teacher's samples as references.

    fitted, nominal: the scores of both plans.
    gain: the gain of the fitted plan's score over that of the nominal plan; None if the judge returns one score for all
        samples.
    """

    fitted: JudgeScore
    nominal: JudgeScore
    gain: Gain | None

    @property
    def is_gain(self) -> bool:
        """Whether the score gains by more than chance."""
        return self.gain is not None and self.gain.is_significant

    @property
    def problem(self) -> str | None:
        """Why the judge rejects the plan: its score misses the limit, or is lower than the nominal plan's, by more than
        chance if there is a score for each sample. None if it does not reject it."""
        if self.fitted.problem is not None:
            return f"the new plan {self.fitted.problem}"
        if self.gain is not None and self.gain.mean < -ERRORS * self.gain.error:
            lost = f"{-self.gain.mean:.3g} ± {self.gain.error:.2g}"
            return f"the new plan scores {lost} less than it by {self.fitted.score.name}"
        loss = self.nominal.score.value - self.fitted.score.value
        if self.gain is None and loss > 0:
            return f"the new plan scores {loss:.3g} less than it by {self.fitted.score.name}"
        return None


@dataclass(frozen=True)
class FitJudgement:
    """The quality of a fitted plan on the judge seeds.

    nominal_psnr: mean PSNR of the nominal plan in dB.
    gain: the gain of the fitted plan over the nominal plan.
    over_previous: the gain of the fitted plan over the previous fitted plan; None without one.
    is_worse_than_previous: whether the fitted plan is worse than the previous one. If its features are closer to the
        teacher's, it may lose up to `price` dB of PSNR (see `judge_fit`).
    sets: FD of the fitted plan and of the nominal one; None without an extractor.
    score: the scores by the user's judge; None without one.
    """

    nominal_psnr: float
    gain: Gain
    over_previous: Gain | None
    is_worse_than_previous: bool
    sets: SetComparison | None
    score: FitScore | None = None

    def is_better(self, on_selection: Gain) -> bool:
        """Return whether the plan gains by more than chance, and is not worse than the previous one. It gains in PSNR,
        also on the selection seeds, or in score. A judge may reject it."""
        is_gain = self.gain.is_significant and on_selection.is_significant
        if self.score is not None:
            is_gain = self.score.problem is None and (is_gain or self.score.is_gain)
        return is_gain and not self.is_worse_than_previous


def judge_fit(
    rolled: FitSampler,
    extractor: Extractor | None,
    blocks: Sequence[Block],
    nominal: Plan,
    fitted: Plan,
    previous: Plan | None,
    price: float,
    judge: Judge | None = None,
) -> FitJudgement:
    """Compare the fitted plan with the nominal plan and with the previous fitted plan, `previous`. `price` is the PSNR
    in dB that the fit gave up for better features."""
    targets = np.concatenate([block.required_target for block in blocks])
    plain, samples = (np.concatenate(list(rolled.sample_blocks(plan, blocks))) for plan in (nominal, fitted))
    before, after = psnr(plain, targets), psnr(samples, targets)
    over_previous, is_behind = None, False
    if previous is not None:
        others = np.concatenate(list(rolled.sample_blocks(previous, blocks)))
        over_previous = Gain.from_psnr(after, psnr(others, targets))
        has_nearer = extractor is not None and price > 0 and are_nearer(extractor, samples, others, targets)
        is_behind = over_previous.mean < -(price if has_nearer else 0.0)
    return FitJudgement(
        nominal_psnr=float(before.mean()),
        gain=Gain.from_psnr(after, before),
        over_previous=over_previous,
        is_worse_than_previous=is_behind,
        sets=None if extractor is None else compare_fitted_sets(extractor, plain, samples, targets),
        score=None if judge is None else _score_plans(judge, blocks, samples, plain),
    )


def _score_plans(judge: Judge, blocks: Sequence[Block], samples: Array, plain: Array) -> FitScore:
    """Return the scores of the fitted plan's samples and of the nominal plan's, both from the seeds of the blocks."""
    pairs = SamplePairs.join(
        [SamplePairs(block.required_target, block.required_target, block.conditions) for block in blocks]
    )
    fitted, nominal, teacher = (judge.score(outputs, pairs) for outputs in (samples, plain, pairs.reference))
    values = [scores.values.astype(np.float64) for scores in (fitted, nominal)]
    gain = Gain.from_psnr(*values) if values[0].ndim else None
    of_fitted, of_nominal = (judge.summarize(scores, teacher, len(samples)) for scores in (fitted, nominal))
    return FitScore(of_fitted, of_nominal, gain)


def are_nearer(extractor: Extractor, samples: Array, others: Array, targets: Array) -> bool:
    """Return True if the features of `samples` are closer to those of `targets` than the features of `others` are. All
    are samples from the same seeds.

    Their mean squared distance must be smaller by more than chance, and FD must not be larger. FD alone would be too
    uncertain for as few as 64 seeds.
    """
    far, near = (feature_distances(extractor, drawn, targets) for drawn in (others, samples))
    sets = compare_fitted_sets(extractor, others, samples, targets)
    return Gain.from_psnr(far, near).is_significant and sets.difference <= 0


def compare_fitted_sets(extractor: Extractor, nominal: Array, fitted: Array, targets: Array) -> SetComparison:
    """Return FD of the fitted plan's samples from the teacher's, paired with the nominal plan's.

    All are [seeds, *x_shape] from the same two or more seeds. Each resample draws the same seeds for all of them."""
    nominal_features, fitted_features, target_features = (
        extractor.extract(features) for features in (nominal, fitted, targets)
    )
    return compare_sets(fitted_features, nominal_features, target_features, RESAMPLES, shares_seeds=True)
