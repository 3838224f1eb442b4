"""Int8 bodies, judged by their samples.

Clipping may lower the error of each tensor and each step, and yet its errors add up over the plan. So the deployed body
generates samples in closed loop, which are compared with float32's samples from the same noise.
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
    """An int8 body, given by its recipe, with the quality of its samples. `search` is set if a bound selected it."""

    recipe: Recipe
    trial: Trial
    search: SearchResult | None = None

    @property
    def last_body(self) -> LoweredBody:
        """The lowered graph; if there are several, the one of the last groups."""
        return self.recipe.lowered_graphs[-1][1]


def record_judging_run(task: Task, plan: AnyPlan, progress: Progress = SILENT) -> RecordedRun | RecordedTokenRun:
    """Record the float32 run with which all bodies are compared. `plan` has the range groups of the counts."""
    sampler = with_row_by_row_body(task.sampler) if task.is_large else task.sampler  # as in counting
    seeds = BODY_SEEDS[: len(task.seeds)]
    shown = prefix_stages(progress, "judgement")
    if sampler.bundle.manifest.vocabulary is not None:
        batch = SeedBatch.from_manifest(sampler.bundle.manifest, seeds, task.conditions)
        return record_token_run(sampler, check_tokens(plan), batch, shown)
    judging_run = record_run(
        task.with_all_networks(sampler), check_compiled(plan), seeds, task.conditions, shown, task.network
    )
    if sampler.bundle.manifest.conditions:
        judging_run = replace(judging_run, differences=float_differences(judging_run, sampler.network().graph))
    close(task.sampler.network().graph)  # float32 and a large int8 body do not fit in memory together
    return judging_run


def judge_body(recipe: Recipe, recorded_run: RecordedRun | RecordedTokenRun, by_rows: bool = False) -> Trial:
    """Return the quality of a body's samples, rounded to significant digits.

    by_rows: run a large body on one sample at a time. Raises UserError if a sample is not finite.
    """
    target, method = recipe.target, recipe.table.method
    graphs = open_graphs([(until, each.graph) for until, each in recipe.lowered_graphs], target, by_rows)
    made: Any = recorded_run.run(graphs)
    quality = recorded_run.quality(made)
    if not np.isfinite(quality.values).all():
        what = f"samples in int8 for {target.name} are not finite"
        raise UserError(what, "calibrate for another --target")
    trial = Trial(method, round(quality.mean, 2), round(quality.p5, 2), quality.seeds, is_chosen=True)
    if isinstance(recorded_run, RecordedTokenRun):
        return structs.replace(trial, tokens=recorded_run.agreement(made))
    guidance, condition = (_worst_difference(each) for each in body_differences(recorded_run, graphs))
    snr, unrelated = (None if each is None else round(each, 2) for each in (quality.snr, quality.unrelated))
    return structs.replace(trial, snr=snr, unrelated=unrelated, guidance=guidance, condition=condition)


def check_near(body: CalibratedBody, manifest: Manifest) -> None:
    """Raise UserError if a body loses the term that guidance multiplies, or if its samples are far from float32's. A
    body that a bound selected is exempt from the second check: the user has set the limit."""
    trial, target = body.trial, body.recipe.target.name
    if trial.guidance is not None and is_lost(trial.guidance):
        raise UserError(
            f"int8 for {target} loses the {GUIDANCE}: {describe_difference(trial.guidance)}",
            "keep more of it in float (--quality 30dB), or calibrate along a plan without guidance at that step",
        )
    near = Nearness(trial.psnr, trial.snr, trial.unrelated)
    if body.search is not None or trial.tokens is not None or near.is_enough:
        return
    fix = "ask for a quality (--quality 30dB), take --precision float32, or follow more trajectories"
    raise UserError(
        f"int8 for {target} is {near.describe('float32')}; at least {LEAST_PSNR:g} and {LEAST_SNR:g} dB are"
        f" required, and {len(trial.in_float)} operations in float are not enough to reach them",
        clip_hint(manifest) if near.is_diverged else fix,
    )


def _worst_difference(steps: Sequence[Difference | None]) -> Difference | None:
    """Return the difference at the worst step, rounded to significant digits, or None."""
    each = worst_difference(steps)
    return each and Difference(each.step, round(each.gain, 3), round(each.ratio, 2), round(each.share, 4))
