"""Int8 bodies, judged by their final samples.

Clipping can lower the error of each tensor and of each step, and still cause errors that add up over the plan. The body
is therefore run along the whole plan as deployed, and its samples are compared with those of float32 from the same
noise.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
from msgspec import structs

from fewstep.calibration.lowering.quantize import LoweredBody
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.precision.precision_search import SearchResult
from fewstep.calibration.precision.recipe import Recipe, open_graphs
from fewstep.calibration.precision.stored_weights import WeightRecipe
from fewstep.calibration.sample_space import ContinuousJudgingRun, JudgingRun
from fewstep.measure.judges.judge import Judge
from fewstep.measure.rollouts.end_quality import EndQuality, compare_samples
from fewstep.measure.rollouts.metrics import Floats
from fewstep.measure.rollouts.nearness import LEAST_PSNR, LEAST_SNR, Nearness, clip_hint
from fewstep.measure.rollouts.output_differences import (
    GUIDANCE,
    describe_difference,
    is_lost,
)
from fewstep.measure.rollouts.quality_range import is_narrow
from fewstep.measure.rollouts.record_sizes import join_rows
from fewstep.measure.rollouts.recorded_run import RecordedRun
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Manifest, Trial
from fewstep.runtime.bundle.platforms import INT8_WEIGHTS

AnyRecipe = TypeVar("AnyRecipe", Recipe, WeightRecipe)
NARROW = 1.0  # dB; once both ranges of a quality are at most this wide, no further seeds are judged


@dataclass(frozen=True)
class CalibratedBody(Generic[AnyRecipe]):
    """An int8 body, given by the recipe from which it is made, with the measured quality of its samples. `search` is
    set if the body was selected by a bound on quality or speed. `reasons` say why it runs graphs that all bodies share,
    by their names. `values` are the PSNR in dB of the samples of the seeds that judge all bodies; empty for tokens."""

    recipe: AnyRecipe
    trial: Trial
    search: SearchResult | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    values: tuple[float, ...] = ()

    @property
    def last_body(self) -> LoweredBody:
        """The lowered graph, or the last one if the body has several: the graph of the cleanest steps."""
        return self.recipe.graphs[-1][1]


AnyBody = CalibratedBody[Recipe] | CalibratedBody[WeightRecipe]


def judge_body(
    recipe: Recipe | WeightRecipe, judging_run: JudgingRun, by_rows: bool = False, judge: Judge | None = None
) -> tuple[Trial, tuple[float, ...]]:
    """Return the quality of a body's samples, rounded to significant digits, and the values of all samples in dB.
    Raises UserError if a sample is not finite.

    by_rows: whether to run a large body on one sample at a time. judge: the user's measure; None if `judge_further`
        takes it, which has more seeds.
    """
    target, method = recipe.target, "" if recipe.table is None else recipe.table.method
    graphs = open_graphs([(until, part.graph) for until, part in recipe.graphs], target, by_rows)
    made = judging_run.run(graphs)
    quality = judging_run.quality(made)
    trial = Trial(method, **_describe_quality(quality, target), is_chosen=True)
    judged = None
    if judge is not None:
        judged = judge.judge(replace(judging_run.float_pairs, samples=judging_run.samples(made)))
    return structs.replace(trial, judged=judged, **judging_run.details(made, quality, graphs)), quality.values


def judge_further(
    body: CalibratedBody[AnyRecipe],
    run: ContinuousJudgingRun,
    further: Iterable[RecordedRun],
    by_rows: bool,
    judge: Judge | None = None,
) -> Trial:
    """Return the trial of a body that will be written, with its quality on the seeds of `run`, on which it was judged
    already, and on further ones. They end when all sizes of the records that judge were judged, and the quality is
    known within NARROW dB. If the user's judge decides, all are judged.

    by_rows: as in `judge_body`. judge: the user's measure, which scores the same samples.
    """
    recipe, judged, pairs = body.recipe, list[RecordedRun](), list[tuple[Floats, Floats]]()
    graphs = open_graphs([(until, part.graph) for until, part in recipe.graphs], recipe.target, by_rows)
    for recorded in chain(run.recorded, further):
        judged.append(recorded)
        pairs.append((recorded.final_samples(recorded.run(graphs)), recorded.sample))
        quality = compare_samples(pairs, recorded.plan.name)
        is_known = judge is None and is_narrow((quality.mean_range, quality.p5_range), NARROW)
        whole = replace(run, recorded=tuple(judged))
        if len(judged) >= len(run.recorded) and is_known and run.held_out_shapes <= whole.judged_shapes:
            break
    samples = join_rows([samples for samples, _ in pairs])
    score = None if judge is None else judge.judge(replace(whole.float_pairs, samples=samples))
    figures = _describe_quality(quality, recipe.target)
    return structs.replace(body.trial, judged=score, **figures, **whole.scale_details(quality))


def _describe_quality(quality: EndQuality, target: Target) -> dict[str, Any]:
    """Return the fields of a trial that hold the PSNR, rounded. Raises UserError if a sample is not finite."""
    if not np.isfinite(quality.values).all():
        what = f"samples in {_describe_target(target)} are not finite"
        raise UserError(what, "calibrate for another --target")
    ranges = {"psnr_range": quality.mean_range, "p5_range": quality.p5_range}
    rounded = {name: ends and (round(ends[0], 2), round(ends[1], 2)) for name, ends in ranges.items()}
    return {"psnr": round(quality.mean, 2), "p5": round(quality.p5, 2), "seeds": quality.seeds, **rounded}


def check_near(body: CalibratedBody[AnyRecipe], manifest: Manifest, is_far: bool) -> None:
    """Raise UserError if a body distorts the guidance difference too much, or if the body's samples are too far from
    those of float32. The second check is skipped for token plans, and for a body that was selected by a bound, where
    the user set the limit. If the user gave a judge, its limit decides instead of both.

    is_far: whether the samples of float32 itself leave the range of the data.
    """
    trial, target = body.trial, body.recipe.target
    near, name = Nearness(trial.psnr, trial.snr, trial.unrelated), _describe_target(target)
    hint = clip_hint(manifest) if is_far else trial.reference and trial.reference.problem
    better, float32 = _finer_body(target), "use --precision float32"
    if trial.judged is not None:
        if (problem := trial.judged.problem) is not None:
            fix = f"{better}, or {float32}" if better else float32
            if not trial.judged.float32.is_kept:
                fix = "give a limit that float32 reaches, or another --plan"  # a finer body misses it too
            raise UserError(f"{name} {problem}", hint or fix)
        return
    if trial.guidance is not None and is_lost(trial.guidance):
        other_plan = "calibrate along a plan without guidance at that step"
        raise UserError(
            f"{name} loses the {GUIDANCE}: {describe_difference(trial.guidance)}",
            hint or (f"{better}, or {other_plan}" if better else other_plan),
        )
    if body.search is not None or trial.tokens is not None or near.is_enough:
        return
    raise UserError(
        f"{name} is {near.describe('float32')}; at least {LEAST_PSNR:g} and {LEAST_SNR:g} dB are"
        f" required, and {len(trial.in_float)} operations in float are not enough to reach them",
        hint or f"{f'{better}, or ' if better else ''}{float32}, or let your own measure decide (--judge)",
    )


def _describe_target(target: Target) -> str:
    """Return what a message calls a target's body: such as "int8 for cpu-x86"."""
    precision = target.platform.precision
    return precision if target.name == precision else f"{precision} for {target.name}"


def _finer_body(target: Target) -> str | None:
    """Return what makes a body that is nearer to float32; None if nothing does."""
    if target.scheme.weight_bits is not None:
        is_coarse = target.name != INT8_WEIGHTS.name
        return f"take 8 bits (--target {INT8_WEIGHTS.name})" if is_coarse else None
    return None if target.scheme.no_floats else "keep more operations in float (--quality 30dB)"
