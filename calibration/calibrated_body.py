"""An int8 body, and its judgement by samples.

Clipping can lower the error of each tensor and of each step, and still add up over the plan. So the body that is
deployed makes samples in the closed loop, and they are compared with float32's from the same noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from msgspec import structs

from fewstep.calibration.lowering.quantize import LoweredBody
from fewstep.calibration.precision.precision_search import SearchResult
from fewstep.calibration.precision.recipe import Recipe, open_graphs
from fewstep.calibration.task import Task
from fewstep.measure.rollouts.nearness import LEAST_PSNR, LEAST_SNR, Nearness, clip_hint
from fewstep.measure.rollouts.on_demand import close
from fewstep.measure.rollouts.output_differences import (
    GUIDANCE,
    body_differences,
    describe_difference,
    float_differences,
    is_lost,
    worst_difference,
)
from fewstep.measure.rollouts.recorded_run import RecordedRun, record_run
from fewstep.measure.rollouts.recorded_token_run import RecordedTokenRun, record_token_run
from fewstep.measure.rollouts.row_by_row import with_row_by_row_body
from fewstep.measure.rollouts.seeds import BODY_SEEDS, SeedBatch
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.argument_checks import check_compiled, check_tokens
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Difference, Manifest, Trial
from fewstep.runtime.progress import SILENT, Progress, prefix_stages


@dataclass(frozen=True)
class CalibratedBody:
    """An int8 body by its recipe, with the quality of its samples. `search` found it, if a bound deploys it."""

    recipe: Recipe
    trial: Trial
    search: SearchResult | None = None

    @property
    def lowered_body(self) -> LoweredBody:
        """Its graph, of the last groups where there are several."""
        return self.recipe.lowered_graphs[-1][1]


def record_judging_run(task: Task, plan: AnyPlan, progress: Progress = SILENT) -> RecordedRun | RecordedTokenRun:
    """The course on which all bodies are compared with float32. `plan` has the range groups of the counts."""
    sampler = with_row_by_row_body(task.sampler) if task.is_large else task.sampler  # as counting has them
    seeds = BODY_SEEDS[: len(task.seeds)]
    shown = prefix_stages(progress, "judgement")
    if sampler.bundle.manifest.vocabulary is not None:
        batch = SeedBatch.from_manifest(sampler.bundle.manifest, seeds, task.conditions)
        return record_token_run(sampler, check_tokens(plan), batch, shown)
    course = record_run(
        task.with_all_networks(sampler), check_compiled(plan), seeds, task.conditions, shown, task.network
    )
    if sampler.bundle.manifest.conditions:
        course = replace(course, differences=float_differences(course, sampler.network().graph))
    close(task.sampler.network().graph)  # float32 and a large int8 body at once are too much
    return course


def judge_body(recipe: Recipe, course: RecordedRun | RecordedTokenRun, by_rows: bool = False) -> Trial:
    """The quality of a body's samples, with digits that are more than noise. UserError if a sample is not finite.

    by_rows: a large body sees the samples of the course one by one.
    """
    target, method = recipe.target, recipe.table.method
    graphs = open_graphs([(until, each.graph) for until, each in recipe.lowered_graphs], target, by_rows)
    made: Any = course.run(graphs)
    quality = course.quality(made)
    if not np.isfinite(quality.values).all():
        what = f"samples in int8 for {target.name} are not finite"
        raise UserError(what, "calibrate for another --target")
    trial = Trial(method, round(quality.mean, 2), round(quality.p5, 2), quality.seeds, is_chosen=True)
    if isinstance(course, RecordedTokenRun):
        return structs.replace(trial, tokens=course.agreement(made))
    guidance, condition = (_worst_difference(each) for each in body_differences(course, graphs))
    snr, unrelated = (None if each is None else round(each, 2) for each in (quality.snr, quality.unrelated))
    return structs.replace(trial, snr=snr, unrelated=unrelated, guidance=guidance, condition=condition)


def check_near(body: CalibratedBody, manifest: Manifest) -> None:
    """UserError for a body that loses what guidance multiplies at a step, or whose samples are far from float32's. A
    bound is a floor of the caller's own."""
    trial, target = body.trial, body.recipe.target.name
    if trial.guidance is not None and is_lost(trial.guidance):
        raise UserError(
            f"int8 for {target} loses the {GUIDANCE}: {describe_difference(trial.guidance)}",
            "keep more of it in float (--quality 30dB), or calibrate along a plan that does not guide at that step",
        )
    near = Nearness(trial.psnr, trial.snr, trial.unrelated)
    if body.search is not None or trial.tokens is not None or near.is_enough:
        return
    fix = "ask for a quality (--quality 30dB), take --precision float32, or follow more trajectories"
    raise UserError(
        f"int8 for {target} is {near.describe('float32')}; {LEAST_PSNR:g} and {LEAST_SNR:g} dB are the"
        f" least, and {len(trial.in_float)} operations in float do not mend it",
        clip_hint(manifest) if near.is_diverged else fix,
    )


def _worst_difference(steps: Sequence[Difference | None]) -> Difference | None:
    """The difference at the worst step, with digits that are more than noise; None without one."""
    each = worst_difference(steps)
    return each and Difference(each.step, round(each.gain, 3), round(each.ratio, 2), round(each.share, 4))
