"""The options of `fewstep calibrate`, and what follows from them alone."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
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

LOG = logging.getLogger("fewstep")

Groups = Literal["step", "pooled"]
Half = Literal["float16", "bfloat16"]
FEW = 4  # trajectories; fewer show little of how far activations reach
MOST_TRAJECTORIES = 2**48


@dataclass(frozen=True)
class CalibrateOptions(SamplingOptions):
    """Measure a bundle along the plan it will run, and lower it to int8.

    bundle: Bundle that gets int8 bodies, their ranges and the plan.
    plan: SOLVER:STEPS, or the path of a plan's JSON. Default: dpmpp_2m:8, or maskgit:8 for a denoiser of tokens.
    target: What to lower for.
    trajectories: Samples to follow. Fewer than 4 cause a warning.
    guidance: Weight of classifier-free guidance; pag:SCALE for perturbed attention, steer:WEIGHT for a gradient; with a
        plus for several, as 2+pag:3. Default: 2, or none where the denoiser cannot be guided.
    clip: Clip each prediction of the clean sample to [-CLIP, CLIP], as the program does that will run the plan.
    groups: step gives each step of the plan its own ranges, pooled gives all steps one range.
    seed: Seed of the first trajectory. Seeds 0 to 99999 and 500000 to 599999 are held out.
    half: The float type around int8 in engines of tensorrt. bfloat16, for weights that were trained so, takes its place
        too where an activation is beyond float16. GPUs have it from Ampere on.
    quality: Keep operations in float until the mean PSNR against float32 is this, as 44dB. --dry-run says how long the
        search for them takes.
    speed: Keep operations in float as long as int8 is this many times as fast as float32, as 1.5x.
    size: Sizes of x that the trajectories have in turn, as 64x64,96x64. Default: the default size.
    """

    bundle: Path
    plan: str | None = None
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


def warn_of_few(options: CalibrateOptions) -> None:
    """A warning where the trajectories show little of the activations, with what follows from it."""
    if options.trajectories < FEW:
        LOG.warning(
            "how far activations reach is little known after %s: int8 clips more of other samples; follow 64"
            " (--trajectories 64)",
            trajectories_text(options.trajectories),
        )


def check_options(options: CalibrateOptions) -> None:
    """UserError for what is wrong whatever the bundle."""
    bound = parse_bound(options.quality, options.speed)
    targets = load_targets(options)
    if bound is not None:
        check_targets(targets, bound)
    for target in targets:
        if target.needs is not None:
            target.needs()
    trajectory_seeds(options)


def load_targets(options: CalibrateOptions) -> tuple[Target, ...]:
    """The targets by their names, each once. UserError for an unknown one, or none."""
    if not options.target:
        raise UserError("no target to lower for", f"choose from {', '.join(target_names())}")
    chosen = tuple(load_target(name) for name in dict.fromkeys(options.target))
    return chosen if options.half == "float16" else tuple(each.wider or each for each in chosen)


def trajectory_seeds(options: CalibrateOptions) -> range:
    """The seeds of the trajectories. UserError where there are none, too many, or they are held out for others."""
    if options.trajectories < 1:
        raise UserError(f"{options.trajectories} trajectories show nothing", "follow at least 1, better 64")
    if options.trajectories > MOST_TRAJECTORIES:
        raise UserError(f"{options.trajectories} trajectories never end", "follow 64, or some hundred")
    if not len(HELD_OUT_SEEDS) <= options.seed <= 2**64 - options.trajectories:
        raise UserError(
            f"calibration seeds from {options.seed} meet those held out for evaluation, or leave 64 bits",
            f"start from {FIRST_SEED}",
        )
    seeds = range(options.seed, options.seed + options.trajectories)
    if seeds.start < SELECTION_SEEDS.stop and SELECTION_SEEDS.start < seeds.stop:
        raise UserError(
            f"calibration seeds {seeds.start} to {seeds[-1]} meet those that bodies and precision maps are judged on",
            f"start from {FIRST_SEED}",
        )
    return seeds
