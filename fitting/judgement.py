"""The comparison of a fitted plan with the teacher, on seeds that were not used for fitting or for choosing the
plan."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fewstep.fitting.blocks import Block
from fewstep.fitting.feature_tradeoff import feature_distances
from fewstep.fitting.levenberg_marquardt import Gain
from fewstep.fitting.rollouts import FitSampler
from fewstep.measure.distances.features import Extractor
from fewstep.measure.distances.frechet import SetComparison, compare_sets
from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans.plan import Plan
from fewstep.runtime.sampling.execute import Array

RESAMPLES = 100  # resamples of the seeds, for standard errors of FD


@dataclass(frozen=True)
class FitJudgement:
    """The quality of a fitted plan on the judge seeds.

    nominal_psnr: mean PSNR of the nominal plan in dB.
    gain: the gain of the fitted plan over the nominal plan.
    over_previous: the gain of the fitted plan over the previous fitted plan; None without one.
    is_worse_than_previous: whether the fitted plan is worse than the previous one. If its features are closer to the
        teacher's, it may lose up to `price` dB of PSNR (see `judge_fit`).
    sets: FD of the fitted plan and of the nominal one; None without an extractor.
    """

    nominal_psnr: float
    gain: Gain
    over_previous: Gain | None
    is_worse_than_previous: bool
    sets: SetComparison | None


def judge_fit(
    rolled: FitSampler,
    extractor: Extractor | None,
    blocks: Sequence[Block],
    nominal: Plan,
    fitted: Plan,
    previous: Plan | None,
    price: float,
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
    )


def are_nearer(extractor: Extractor, samples: Array, others: Array, targets: Array) -> bool:
    """Return True if the features of `samples` are closer to those of `targets` than the features of `others` are. All
    are samples from the same seeds.

    Their mean squared distance must be smaller by more than chance, and FD must not be larger. FD alone would be too
    uncertain for as few as 64 seeds.
    """
    far, near = (feature_distances(extractor, each, targets) for each in (others, samples))
    sets = compare_fitted_sets(extractor, others, samples, targets)
    return Gain.from_psnr(far, near).is_significant and sets.difference <= 0


def compare_fitted_sets(extractor: Extractor, nominal: Array, fitted: Array, targets: Array) -> SetComparison:
    """Return FD of the fitted plan's samples from the teacher's, paired with the nominal plan's.

    All are [seeds, *x_shape] from the same two or more seeds. Each resample draws the same seeds for all of them."""
    nominal_features, fitted_features, target_features = (
        extractor.extract(each) for each in (nominal, fitted, targets)
    )
    return compare_sets(fitted_features, nominal_features, target_features, RESAMPLES, shares_seeds=True)
