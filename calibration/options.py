"""The options of `fewstep calibrate`, and everything that follows from them without a bundle."""

import logging
from dataclasses import dataclass, field
from typing import Literal

from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets import USUAL, load_target, target_names
from fewstep.calibration.precision.bound import parse_bound
from fewstep.calibration.precision.timeable_targets import check_targets
from fewstep.measure.rollouts.seeds import FIRST_SEED, HELD_OUT_SEEDS, SELECTION_SEEDS
from fewstep.measure.rollouts.trajectories import trajectories_text
from fewstep.measure.workers.setup import SamplingOptions
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import TextReference
from fewstep.runtime.options import BundleOptions

LOG = logging.getLogger("fewstep")

Groups = Literal["step", "pooled"]
Half = Literal["float16", "bfloat16"]
GUIDANCE = 2.0  # default weight for a guided denoiser's plan
FEW = 4  # trajectories; fewer show little of the range of activations
MOST_TRAJECTORIES = 2**48


@dataclass(frozen=True)
class CalibrateOptions(BundleOptions, SamplingOptions):
    """Measure a bundle along the plan it will run, and lower it to int8.

    bundle: The folder of the bundle, to which int8 bodies, their ranges and the plan are added.
    plan: SOLVER:STEPS, or the path of a plan's JSON. Default: dpmpp_2m:8, or maskgit:8 for a denoiser of tokens.
    target: Targets to lower for.
    trajectories: Number of samples to follow. Fewer than 4 cause a warning.
    guidance: Weight of classifier-free guidance; pag:SCALE for perturbed attention, steer:WEIGHT for a gradient, or
        several as 2+pag:3; cfg++:WEIGHT for CFG++. Default: 2, or none without a null condition.
    clip: Clip each prediction of the clean sample to [-CLIP, CLIP], like the program that will run the plan.
    groups: step gives each step of the plan its own ranges, pooled gives all steps one range.
    seed: Seed of the first trajectory. Seeds 0 to 99999 and 500000 to 599999 are held out.
    half: Float type around int8 in engines of tensorrt. bfloat16 suits weights that were trained in it, and is also
        used if an activation exceeds float16. It needs an Ampere GPU or newer.
    quality: Keep operations in float until the mean PSNR against float32 reaches this value, as 44dB. --dry-run prints
        how long the search takes.
    speed: Keep operations in float as long as int8 is this many times as fast as float32, as 1.5x.
    keep_float: Patterns of operations that stay in float, as "middle.*,*/MatMul"; inspect --operations lists the names.
    size: Sizes of x, as 64x64,96x64; the trajectories alternate between them. Default: the bundle's default size.
    """

    plan: TextReference | None = None
    target: tuple[str, ...] = field(default=USUAL, metadata={"choices": target_names})
    trajectories: int = 64
    guidance: float | Guidance | None = None
    clip: float | None = None
    groups: Groups = field(default="step", metadata={"expert": True})
    half: Half = field(default="float16", metadata={"expert": True})
    seed: int = field(default=FIRST_SEED, metadata={"expert": True})
    size: tuple[str, ...] = ()
    quality: str | None = None
    speed: str | None = None
    keep_float: tuple[str, ...] = field(default=(), metadata={"is_pattern": True})


def warn_of_few(options: CalibrateOptions) -> None:
    """Warn if there are too few trajectories to show the range of the activations."""
    if options.trajectories < FEW:
        LOG.warning(
            "the range of activations is hardly known after %s: int8 may clip those of other samples; follow 64"
            " (--trajectories 64)",
            trajectories_text(options.trajectories),
        )


def check_options(options: CalibrateOptions) -> None:
    """Check the options that do not depend on the bundle. Raises UserError for the first that is wrong."""
    bound = parse_bound(options.quality, options.speed)
    targets = load_targets(options)
    if bound is not None:
        check_targets(targets, bound)
    for target in targets:
        if target.needs is not None:
            target.needs()
        if target.scheme.no_floats and options.keep_float:
            raise UserError(
                f"--keep-float: {target.name} runs every operation in integers",
                "leave out --keep-float, or this target",
            )
    trajectory_seeds(options)


def load_targets(options: CalibrateOptions) -> tuple[Target, ...]:
    """Return the targets by their names, without duplicates. Raises UserError for an unknown name, or none."""
    if not options.target:
        raise UserError("no target is given", f"choose from {', '.join(target_names())}")
    chosen = tuple(load_target(name) for name in dict.fromkeys(options.target))
    return chosen if options.half == "float16" else tuple(each.wider or each for each in chosen)


def trajectory_seeds(options: CalibrateOptions) -> range:
    """Return the seeds of the trajectories. Raises UserError if there are none or too many, or if they are held out."""
    if options.trajectories < 1:
        raise UserError(f"{options.trajectories} trajectories are too few", "follow at least 1, better 64")
    if options.trajectories > MOST_TRAJECTORIES:
        raise UserError(f"{options.trajectories} trajectories are too many", "follow 64, or some hundred")
    if not len(HELD_OUT_SEEDS) <= options.seed <= 2**64 - options.trajectories:
        raise UserError(
            f"calibration seeds from {options.seed} overlap those held out for evaluation, or exceed 64 bits",
            f"start from {FIRST_SEED}",
        )
    seeds = range(options.seed, options.seed + options.trajectories)
    if seeds.start < SELECTION_SEEDS.stop and SELECTION_SEEDS.start < seeds.stop:
        raise UserError(
            f"calibration seeds {seeds.start} to {seeds[-1]} overlap those that judge bodies and precision maps",
            f"start from {FIRST_SEED}",
        )
    return seeds
