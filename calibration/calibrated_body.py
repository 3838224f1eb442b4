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
from fewstep.calibration.precision.recipe import Recipe, open_graphs
from fewstep.calibration.precision.refine import SearchResult
from fewstep.calibration.task import Task
from fewstep.measure.rollouts.course import Course, open_course
from fewstep.measure.rollouts.direction import GUIDANCE, body_differences, float_differences, is_lost, text_of, worst
from fewstep.measure.rollouts.nearness import LEAST_PSNR, LEAST_SNR, Nearness, clip_hint
from fewstep.measure.rollouts.on_demand import close
from fewstep.measure.rollouts.row_by_row import body_by_rows
from fewstep.measure.rollouts.seeds import BODY_SEEDS, SeedBatch
from fewstep.measure.rollouts.token_course import TokenCourse, open_token_course
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.arguments import check_compiled, check_tokens
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Difference, Manifest, Trial
from fewstep.runtime.progress import SILENT, Progress, under


@dataclass(frozen=True)
class CalibratedBody:
    """An int8 body by its recipe, with the quality of its samples. `search` found it, if a bound deploys it."""

    recipe: Recipe
    trial: Trial
    search: SearchResult | None = None

    @property
    def lowered(self) -> LoweredBody:
        """Its graph, of the last groups where there are several."""
        return self.recipe.lowered[-1][1]


def judging_course(task: Task, plan: AnyPlan, progress: Progress = SILENT) -> Course | TokenCourse:
    """The course on which all bodies are compared with float32. `plan` has the range groups of the counts."""
    sampler = body_by_rows(task.sampler) if task.is_large else task.sampler  # as counting has them
    seeds = BODY_SEEDS[: len(task.seeds)]
    shown = under(progress, "judgement")
    if sampler.bundle.manifest.vocabulary is not None:
        batch = SeedBatch.held_out(sampler.bundle.manifest, seeds, task.conditions)
        return open_token_course(sampler, check_tokens(plan), batch, shown)
    course = open_course(task.among(sampler), check_compiled(plan), seeds, task.conditions, shown, task.network)
    if sampler.bundle.manifest.conditions:
        course = replace(course, differences=float_differences(course, sampler.network().graph))
    close(task.sampler.network().graph)  # float32 and a large int8 body at once are too much
    return course


def judged(recipe: Recipe, course: Course | TokenCourse, by_rows: bool = False) -> Trial:
    """The quality of a body's samples, with digits that are more than noise. UserError if a sample is not finite.

    by_rows: a large body sees the samples of the course one by one.
    """
    target, method = recipe.target, recipe.table.method
    graphs = open_graphs([(until, each.graph) for until, each in recipe.lowered], target, by_rows)
    made: Any = course.run(graphs)
    quality = course.quality(made)
    if not np.isfinite(quality.values).all():
        what = f"samples in int8 for {target.name} are not finite"
        raise UserError(what, "calibrate for another --target")
    trial = Trial(method, round(quality.mean, 2), round(quality.p5, 2), quality.seeds, is_chosen=True)
    if isinstance(course, TokenCourse):
        return structs.replace(trial, tokens=course.agreement(made))
    guidance, condition = (_worst(each) for each in body_differences(course, graphs))
    snr, unrelated = (None if each is None else round(each, 2) for each in (quality.snr, quality.unrelated))
    return structs.replace(trial, snr=snr, unrelated=unrelated, guidance=guidance, condition=condition)


def check_near(body: CalibratedBody, manifest: Manifest) -> None:
    """UserError for a body that loses what guidance multiplies at a step, or whose samples are far from float32's. A
    bound is a floor of the caller's own."""
    trial, target = body.trial, body.recipe.target.name
    if trial.guidance is not None and is_lost(trial.guidance):
        raise UserError(
            f"int8 for {target} loses the {GUIDANCE}: {text_of(trial.guidance)}",
            "keep more of it in float (--quality 30dB), or calibrate along a plan that does not guide at that step",
        )
    near = Nearness(trial.psnr, trial.snr, trial.unrelated)
    if body.search is not None or trial.tokens is not None or near.is_enough:
        return
    fix = "ask for a quality (--quality 30dB), take --precision float32, or follow more trajectories"
    raise UserError(
        f"int8 for {target} is {near.sentence('float32')}; {LEAST_PSNR:g} and {LEAST_SNR:g} dB are the"
        f" least, and {len(trial.in_float)} operations in float do not mend it",
        clip_hint(manifest) if near.is_diverged else fix,
    )


def _worst(steps: Sequence[Difference | None]) -> Difference | None:
    """The difference at the worst step, with digits that are more than noise; None without one."""
    each = worst(steps)
    return each and Difference(each.step, round(each.gain, 3), round(each.ratio, 2), round(each.share, 4))
