"""Int8 bodies, judged by their final samples.

Clipping can lower the error of each tensor and of each step, and still cause errors that add up over the plan. The body
is therefore run along the whole plan as deployed, and its samples are compared with those of float32 from the same
noise.
"""

from dataclasses import dataclass

import numpy as np
from msgspec import structs

from fewstep.calibration.lowering.quantize import LoweredBody
from fewstep.calibration.precision.precision_search import SearchResult
from fewstep.calibration.precision.recipe import Recipe, open_graphs
from fewstep.calibration.sample_space import JudgingRun
from fewstep.measure.rollouts.nearness import LEAST_PSNR, LEAST_SNR, Nearness, clip_hint
from fewstep.measure.rollouts.output_differences import (
    GUIDANCE,
    describe_difference,
    is_lost,
)
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Manifest, Trial


@dataclass(frozen=True)
class CalibratedBody:
    """An int8 body, given by the recipe from which it is made, with the measured quality of its samples. `search` is
    set if the body was selected by a bound on quality or speed."""

    recipe: Recipe
    trial: Trial
    search: SearchResult | None = None

    @property
    def last_body(self) -> LoweredBody:
        """The lowered graph, or the last one if the body has several: the graph of the cleanest steps."""
        return self.recipe.graphs[-1][1]


def judge_body(recipe: Recipe, judging_run: JudgingRun, by_rows: bool = False) -> Trial:
    """Return the quality of a body's samples, rounded to significant digits. Raises UserError if a sample is not
    finite.

    by_rows: whether to run a large body on one sample at a time.
    """
    target, method = recipe.target, recipe.table.method
    graphs = open_graphs([(until, each.graph) for until, each in recipe.graphs], target, by_rows)
    made = judging_run.run(graphs)
    quality = judging_run.quality(made)
    if not np.isfinite(quality.values).all():
        what = f"samples in int8 for {target.name} are not finite"
        raise UserError(what, "calibrate for another --target")
    trial = Trial(method, round(quality.mean, 2), round(quality.p5, 2), quality.seeds, is_chosen=True)
    return structs.replace(trial, **judging_run.details(made, quality, graphs))


def check_near(body: CalibratedBody, manifest: Manifest, is_far: bool) -> None:
    """Raise UserError if int8 distorts the guidance difference too much, or if the body's samples are too far from
    those of float32. The second check is skipped for token plans, and for a body that was selected by a bound, where
    the user set the limit.

    is_far: whether the samples of float32 itself leave the range of the data.
    """
    trial, target = body.trial, body.recipe.target.name
    near = Nearness(trial.psnr, trial.snr, trial.unrelated)
    hint = clip_hint(manifest) if is_far else None
    if trial.guidance is not None and is_lost(trial.guidance):
        fix = "keep more operations in float (--quality 30dB), or calibrate along a plan without guidance at that step"
        raise UserError(
            f"int8 for {target} loses the {GUIDANCE}: {describe_difference(trial.guidance)}",
            hint or fix,
        )
    if body.search is not None or trial.tokens is not None or near.is_enough:
        return
    fix = "ask for a quality (--quality 30dB), or use --precision float32"
    raise UserError(
        f"int8 for {target} is {near.describe('float32')}; at least {LEAST_PSNR:g} and {LEAST_SNR:g} dB are"
        f" required, and {len(trial.in_float)} operations in float are not enough to reach them",
        hint or fix,
    )
