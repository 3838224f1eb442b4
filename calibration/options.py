"""The options of `fewstep calibrate`, and what follows from them alone."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from fewstep.calibration.choosing.trials import FEWEST, TRIED
from fewstep.calibration.precision.native import check_targets, searched_here
from fewstep.calibration.precision.record import parse_bound
from fewstep.lowering.scheme import Target
from fewstep.lowering.targets import USUAL, target_names, targets_by_name
from fewstep.plans.errors import UserError
from fewstep.ranges.table import Method
from fewstep.rollouts.closed_loop import SELECTION_SEEDS
from fewstep.rollouts.trajectories import FIRST_SEED, HELD_OUT_SEEDS, in_words
from fewstep.workers.options import SamplingOptions

LOG = logging.getLogger("fewstep")

Groups = Literal["step", "pooled"]
AnyMethod = Literal["auto", Method]
Thin = Literal["auto", "tried", "int8"]
Bias = Literal["auto", "measured", "none"]

MOST_TRAJECTORIES = 2**48


@dataclass(frozen=True)
class CalibrateOptions(SamplingOptions):
    """Measure a bundle along the plan it will run, and lower it to int8.

    bundle: The bundle to calibrate; int8 bodies, ranges and the plan are added to it.
    plan: SOLVER:STEPS, or the path of a plan's JSON.
    target: What to lower for.
    trajectories: Number of samples to follow. Fewer than 4 cause a warning, and nothing is tried on samples.
    guidance: Weight of classifier-free guidance. Default: 2 if the denoiser has an unconditional form and does not take
        the weight itself as a condition; else none.
    clip: Clip each prediction of the clean sample to [-CLIP, CLIP], as a program does with `Clip`. Ranges then fit
        such runs. Default: the plan as it is.
    ranges: auto tries channels and channels-balanced on samples, and keeps channels unless the other is surely better,
        for each target. channels gives each channel of an activation its own scale, through the weights, if that is
        finer than mse. channels-balanced is channels with weights whose rounding errors nearly cancel. The others
        give one scale to all channels: mse minimises the expected squared error, minmax clips nothing.
    thin: tried leaves thin convolutions in float, if samples are better so: at most 64 products for a value, and 0.5 %
        of the multiply-accumulates each, of which 95 % stay int8. int8 leaves none. auto is tried with ranges auto,
        else int8.
    bias: measured takes the mean error of an int8 body's output out, if samples are better without it. Where it is an
        image, samples need only be no worse. none leaves it in. auto is measured with ranges auto, else none.
    groups: step gives each step of the plan its own ranges. pooled gives one range to all steps.
    seed: Seed of the first trajectory. Seeds 0 to 99999 are held out for evaluation, 500000 to 599999 for precision
        maps.
    quality: Search a precision map that reaches this mean PSNR against float32, as 44dB (dB may be left out), with as
        little float as possible.
    speed: Search a precision map that is this many times as fast as float32, as 1.5x (x may be left out), with as much
        float as possible.
    size: Sizes of x that the trajectories have in turn, four each, as 64x64,96x64 in the order of its free axes.
        Default: the default size. int8 runs at any size all the same, because ranges belong to tensors.
    """

    bundle: Path
    plan: str = "dpmpp_2m:8"
    target: tuple[str, ...] = field(default=USUAL, metadata={"choices": target_names})
    trajectories: int = 64
    guidance: float | None = None
    clip: float | None = None
    ranges: AnyMethod = "auto"
    thin: Thin = "auto"
    bias: Bias = "auto"
    groups: Groups = "step"
    seed: int = FIRST_SEED
    size: tuple[str, ...] = ()
    quality: str | None = None
    speed: str | None = None


def methods_of(options: CalibrateOptions) -> tuple[Method, ...]:
    """The methods whose ranges are tried, the usual one first."""
    if options.ranges != "auto":
        return (options.ranges,)
    return TRIED if _has_trials(options) else TRIED[:1]


def thin_targets(options: CalibrateOptions) -> tuple[str, ...]:
    """For which thin convolutions may stay in float. A precision map chooses what does itself."""
    is_tried = options.thin == "tried" or (options.thin == "auto" and options.ranges == "auto")
    return _without_map(options) if is_tried and _has_trials(options) else ()


def ways_of(options: CalibrateOptions) -> int:
    """How often a body is lowered, at most."""
    return len(methods_of(options)) + bool(thin_targets(options))


def biased_targets(options: CalibrateOptions) -> tuple[str, ...]:
    """For which the mean error of the output may be taken out. A precision map leaves parts in float, which changes
    that error: its bodies keep it."""
    is_tried = options.bias == "measured" or (options.bias == "auto" and options.ranges == "auto")
    return _without_map(options) if is_tried and _has_trials(options) else ()


def warn_of_few(options: CalibrateOptions) -> None:
    """A warning where the trajectories show little of the activations, with what follows from it."""
    if _has_trials(options):
        return
    untried = f", and ranges are {TRIED[0]}, for trials need {FEWEST}" if options.ranges == "auto" else ""
    LOG.warning(
        "how far activations reach is little known after %s: int8 clips more of other samples%s; follow 64"
        " (--trajectories 64)",
        *(in_words(options.trajectories), untried),
    )


def _has_trials(options: CalibrateOptions) -> bool:
    """Whether ways may be tried on samples, of which there are no more than trajectories."""
    return options.trajectories >= FEWEST


def _without_map(options: CalibrateOptions) -> tuple[str, ...]:
    mapped = () if parse_bound(options.quality, options.speed) is None else searched_here()
    return tuple(name for name in options.target if name not in mapped)


def check_options(options: CalibrateOptions) -> None:
    """UserError for what is wrong whatever the bundle."""
    _check_choices(options)
    bound = parse_bound(options.quality, options.speed)
    targets = targets_of(options)
    if bound is not None:
        check_targets([target.name for target in targets])
    for target in targets:
        if target.requires is not None:
            target.requires()
    seeds_of(options)


def targets_of(options: CalibrateOptions) -> tuple[Target, ...]:
    """The targets by their names, each once. UserError for an unknown one, or none."""
    names, known = options.target, targets_by_name()
    for name in names:
        if name not in known:
            raise UserError(f"unknown target {name!r}", f"choose from {', '.join(known)}")
    if not names:
        raise UserError("no target to lower for", f"choose from {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))


def _check_choices(options: CalibrateOptions) -> None:
    """What the command line checks, for callers of the function."""
    for option, value, choices in (
        ("ranges", options.ranges, get_args(AnyMethod)),
        ("thin", options.thin, get_args(Thin)),
        ("bias", options.bias, get_args(Bias)),
        ("groups", options.groups, get_args(Groups)),
    ):
        if value not in choices:
            raise UserError(f"{option} cannot be {value!r}", f"choose from {', '.join(choices)}")
    for option, value, asked in (("thin", options.thin, "tried"), ("bias", options.bias, "measured")):
        if value == asked and not _has_trials(options):
            raise UserError(
                f"--{option} {asked} needs {FEWEST} trajectories", f"follow at least {FEWEST}, or leave it out"
            )


def seeds_of(options: CalibrateOptions) -> range:
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
            f"calibration seeds {seeds.start} to {seeds[-1]} meet those that precision maps are judged on",
            f"start from {FIRST_SEED}",
        )
    return seeds
