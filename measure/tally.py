"""The quality measures of one judged body, accumulated batch by batch. Only one value per measure and sample is kept in
memory, unless samples are requested."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.distances.drift import Moments, measure_drift
from fewstep.measure.judged_run import JudgedRun, StepSums
from fewstep.measure.results import StepQuality, TokenQuality, TokenStepQuality
from fewstep.measure.rollouts.end_quality import EndQuality, end_quality
from fewstep.measure.rollouts.metrics import Floats, has_ssim, psnr, sqnr, ssim
from fewstep.measure.rollouts.nearness import ReferencePower
from fewstep.measure.rollouts.output_differences import summarize_differences
from fewstep.measure.rollouts.record_sizes import join_rows, stack_rows
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.figures import ReferenceCheck
from fewstep.runtime.bundle.manifest import TokenAgreement
from fewstep.runtime.sampling.execute import Array

NOTHING: NDArray[Any] = np.zeros(0, np.float32)


@dataclass(frozen=True)
class JudgementRequest:
    """The measurements of each body, besides its distance from float32 along the same plan.

    teacher: a plan; bodies are compared with its float32 samples of the first `teacher_sample_count` seeds. None: no
        comparison.
    extract: maps samples to features [B, D]. It is applied to the samples of the first `featured` seeds, and to as many
        float32 samples from other seeds (`APART`). None: no features.
    samples: whether samples are kept.
    """

    teacher: Plan | None = None
    teacher_sample_count: int = 0
    extract: Callable[[NDArray[Any]], NDArray[np.floating]] | None = None
    featured: int = 0
    samples: bool = False


@dataclass(frozen=True)
class Judgement:
    """The measurements of one body.

    Attributes:
        against_float: the quality against float32; None for float32 itself.
        against_teacher: the quality against the teacher; None without a teacher.
        steps: the quality of each step of a continuous plan; empty for float32 itself.
        tokens: the agreement of tokens, for token plans.
        features: the features of samples, [featured, D]; empty if not requested.
        samples: [seeds, *x_shape], if requested, or an array of arrays if their sizes differ; `reference` are float32's
            samples along the same plan.
        check: the check of float32's samples along the same plan; None for tokens and for float32 itself.
    """

    against_float: EndQuality | None
    against_teacher: EndQuality | None
    steps: tuple[StepQuality, ...]
    tokens: TokenQuality | None
    features: NDArray[np.floating]
    samples: NDArray[Any]
    reference: NDArray[Any]
    check: ReferenceCheck | None = None


class PairedSamples:
    """A stream of samples [B, *x_shape] and references; rows with the same index have the same seed."""

    def __init__(self) -> None:
        self._psnr: list[NDArray[np.float64]] = []
        self._ssim: list[NDArray[np.float64]] = []
        self._ours, self._theirs = Moments(), Moments()
        self._signal = ReferencePower()

    def add(self, samples: Floats, references: Floats) -> None:
        """Add a batch of samples and the references with the same seeds. The batch may be empty."""
        if not len(samples):
            return
        self._psnr.append(psnr(samples, references))
        if has_ssim(samples.shape[1:]):
            self._ssim.append(ssim(samples, references))
        self._ours.add(samples)
        self._theirs.add(references)
        self._signal.add(references, samples)

    def quality(self, reference: str) -> EndQuality:
        """Return the quality of the samples added so far, compared with the references, which have the name
        `reference`. At least one sample must have been added."""
        similar = np.concatenate(self._ssim) if self._ssim else None
        return end_quality(
            np.concatenate(self._psnr), reference, self._signal, measure_drift(self._ours, self._theirs), similar
        )


@dataclass
class Tally:
    """The quality measures of a body over the batches so far.

    teacher: the teacher's samples of the first seeds, [teacher_sample_count, *x_shape], or an array of arrays if their
        sizes differ.
    plan: the body's plan, whose steps are assigned to the body's range groups.
    is_float: whether the body is float32, which is only compared with the teacher.
    seen: the number of seeds so far.
    steps: the sums at each step; empty for tokens and for float32.
    """

    want: JudgementRequest
    teacher: Array
    plan: AnyPlan
    is_float: bool = False
    seen: int = 0
    against_float: PairedSamples = field(default_factory=PairedSamples)
    against_teacher: PairedSamples = field(default_factory=PairedSamples)
    features: list[NDArray[np.floating]] = field(default_factory=list)
    samples: list[NDArray[Any]] = field(default_factory=list)
    reference: list[NDArray[Any]] = field(default_factory=list)
    tokens: list[JudgedRun] = field(default_factory=list)
    steps: tuple[StepSums, ...] = ()
    check: ReferenceCheck | None = None

    def add(self, run: JudgedRun) -> None:
        """Add the samples of the next batch of seeds."""
        teacher = stack_rows(self.teacher[self.seen :][: len(run.samples)])
        self.against_teacher.add(run.samples[: len(teacher)], teacher)
        self.add_features(run.samples)
        self.check = self.check or run.check
        if self.want.samples:
            self.samples.append(run.samples)
            self.reference.append(run.reference)
        if run.agreement is not None:
            self.tokens.append(run)
        elif not self.is_float:
            self.against_float.add(run.samples, run.reference)
        added = tuple(StepSums(*map(add, *pair)) for pair in zip(self.steps, run.steps, strict=False))
        self.steps = added or run.steps  # empty before the first batch

    def add_features(self, samples: NDArray[Any]) -> None:
        """Add the features of the samples of the next seeds, as far as requested, and count the seeds."""
        wanted = samples[: max(0, self.want.featured - self.seen)]
        if self.want.extract is not None and len(wanted):
            self.features.append(self.want.extract(wanted))
        self.seen += len(samples)

    def judgement(self) -> Judgement:
        """Return the judgement of all samples accumulated so far."""
        name = f"float32, {self.plan.name}"
        teacher, tokens, against_float = self.want.teacher, None, None
        if self.tokens:
            decibels = np.concatenate([token.decibels for token in self.tokens if token.decibels is not None])
            against_float, tokens = end_quality(decibels, name), _average_token_quality(self.plan, self.tokens)
        elif not self.is_float:
            against_float = self.against_float.quality(name)
        return Judgement(
            against_float=against_float,
            against_teacher=self.against_teacher.quality(f"float32, {teacher.name}") if teacher else None,
            steps=tuple(self._steps()),
            tokens=tokens,
            features=concatenate(self.features),
            samples=concatenate_rows(self.samples),
            reference=concatenate_rows(self.reference),
            check=self.check,
        )

    def _steps(self) -> Iterator[StepQuality]:
        steps: Any = self.plan.steps
        for i, sums in enumerate(self.steps):
            step, forced = steps[i], sqnr(sums.forced) if sums.forced_seeds else None
            figures = (forced, sqnr(sums.x0), sqnr(sums.x), *summarize_differences(i, sums.differences))
            yield StepQuality(i, step.time, step.lam, step.group, *figures, network=step.network)


def concatenate(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate all parts, or return an empty array."""
    return np.concatenate(parts) if parts else NOTHING


def concatenate_rows(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate samples [B, *x_shape]. If their sizes differ, return an array [N] of arrays (`record_sizes`)."""
    return join_rows(parts) if parts else NOTHING


def _average_token_quality(plan: Any, parts: Sequence[JudgedRun]) -> TokenQuality:
    """Return the mean over batches, weighted by their numbers of samples: at a step, every sample has the same number
    of masked positions."""
    agreements = [part.agreement for part in parts if part.agreement is not None]
    weights = [len(part.samples) for part in parts]

    def mean(field: Callable[[TokenAgreement], Any]) -> Any:
        return np.average(np.array([field(agreement) for agreement in agreements]), axis=0, weights=weights)

    steps = tuple(
        TokenStepQuality(index, step.lam, step.group, float(differ), float(nats))
        for index, (step, (differ, nats)) in enumerate(zip(plan.steps, mean(lambda each: each.steps), strict=True))
    )
    return TokenQuality(float(mean(lambda each: each.disagreement)), float(mean(lambda each: each.same)), steps)
