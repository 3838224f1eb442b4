"""The options of `fewstep calibrate`, checked and completed, with or without the bundle that they are for."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Literal

from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets import load_target, target_names, usual_targets
from fewstep.calibration.precision.bound import Bound, parse_bound
from fewstep.calibration.precision.timeable_targets import check_targets
from fewstep.measure.judges.options import JudgeOptions
from fewstep.measure.rollouts.conditions_file import GivenConditions
from fewstep.measure.rollouts.record_sizes import alternate
from fewstep.measure.rollouts.recorded_token_run import check_counts
from fewstep.measure.rollouts.seeds import FIRST_SEED, HELD_OUT_SEEDS, SELECTION_SEEDS, draw_conditions
from fewstep.measure.rollouts.trajectories import trajectories_text
from fewstep.measure.workers.setup import SamplingOptions
from fewstep.plans.any_plan import AnyPlan, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance, to_text
from fewstep.plans.names.plan_reference import (
    FileReference,
    NamedReference,
    SchedulerReference,
    TextReference,
    parse_plan_text,
    split_plan_name,
)
from fewstep.plans.shaping import Clip, clip_to
from fewstep.runtime.bundle.conditions import is_led_by_guidance
from fewstep.runtime.bundle.networks import calibration_plan, networks
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import apply_sizes, default_sizes
from fewstep.runtime.options import BundleOptions
from fewstep.runtime.sampling.execution import PlanCompiler

LOG = logging.getLogger("fewstep")

Groups = Literal["step", "pooled"]
Half = Literal["float16", "bfloat16"]
GUIDANCE = 2.0  # default weight for a guided denoiser's plan
FEW = 4  # trajectories; fewer show little of the range of activations
MOST_TRAJECTORIES = 2**48


@dataclass(frozen=True)
class CalibrateOptions(BundleOptions, SamplingOptions, JudgeOptions):
    """Measure a bundle along the plan it will run, and lower it to int8. No option of an earlier calibration is kept.

    bundle: The folder of the bundle, to which int8 bodies, their ranges and the plan are added.
    plan: SOLVER:STEPS, or the path of a plan's JSON. Default: dpmpp_2m:8, with +every if there is a light network;
        maskgit:8 for tokens.
    target: Targets to lower for. Default: the one that suits this CPU, and tensorrt. All targets.
    trajectories: Number of samples to follow. Fewer than 4 cause a warning.
    guidance: Weight of classifier-free guidance; pag:SCALE for perturbed attention, steer:WEIGHT for a gradient, or
        several as 2+pag:3; cfg++:WEIGHT for CFG++. Default: 2, or none without a null condition.
    clip: Clip each prediction of the clean sample to [-CLIP, CLIP], as your program will.
    groups: step gives each step of the plan its own ranges, pooled gives all steps one range.
    seed: Seed of the first trajectory. Seeds 0 to 99999 and 500000 to 599999 are held out.
    half: Float type around int8 in engines of tensorrt. bfloat16 suits weights that were trained in it, and is also
        used if an activation exceeds float16. It needs an Ampere GPU or newer.
    quality: Keep operations in float until the mean PSNR against float32 reaches this value, as 44dB. --dry-run prints
        how long the search takes.
    speed: Keep operations in float as long as int8 is this many times as fast as float32, as 1.5x.
    keep_float: Patterns of operations that stay in float, as "middle.*,*/MatMul"; inspect --operations lists the names.
    size: Sizes of x (latents, not pixels) in turns, as 64x64,96x64. Default: the bundle's, or those of your conditions.
    """

    plan: TextReference | None = None
    target: tuple[str, ...] = field(default=(), metadata={"choices": target_names})
    trajectories: int = 64
    guidance: float | Guidance | None = None
    clip: float | None = None
    groups: Groups = field(default="step", metadata={"expert": True})
    half: Half = field(default="float16", metadata={"expert": True})
    seed: int = field(default=FIRST_SEED, metadata={"expert": True})
    size: tuple[str, ...] = ()
    quality: str | None = None
    speed: str | None = None
    keep_float: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets, without duplicates."""
        return tuple(dict.fromkeys(self.target)) or usual_targets()

    def compile(self, compiler: PlanCompiler) -> AnyPlan:
        """Compile the plan along which to calibrate, with a single range group, which `calibrate` splits later. A plan
        file keeps its own guidance. Clips of earlier calibrations are not used."""
        manifest = compiler.bundle.manifest
        reference = self.plan or parse_plan_text(calibration_plan(manifest))
        is_file = isinstance(reference, FileReference)
        default = GUIDANCE if is_led_by_guidance(manifest.conditions) and not is_file else None
        weight = default if self.guidance is None else self.guidance
        plan = compiler.compile(reference, weight, {"shaping": clip_to(self.clip)})
        check_counts(plan, "calibrate along a plan of counts, such as maskgit:8 or likeliest:8")
        may_clip = manifest.space.has_squared_error and shaping_of(plan) is None
        clip = _scheduler_clip(compiler) if may_clip else None
        if clip is not None:
            LOG.warning(
                "the model's own scheduler clips predictions to [%g, %g], but this plan does not: if your program "
                "clips, give --clip %g, so that the ranges fit",
                *(clip.low, clip.high, clip.high),
            )
        return plan

    def read_conditions(self, bundle: Bundle) -> tuple[GivenConditions, GivenConditions]:
        """Return one record of conditions for each trajectory, from a file or from prompts, and the records that judge
        bodies: others, if there are enough. Raises UserError if there is neither and a condition cannot be drawn."""
        own, held_out = self.calibration_conditions(bundle).split_held_out()
        if own.records is not None:
            judging = len(next(iter(held_out.records.values()))) if held_out.is_held_out and held_out.records else 0
            return own.distribute(self.trajectories, judging), held_out
        draw_conditions(bundle.manifest, [self.seed])
        return own, held_out

    def parse_sizes(self, bundle: Bundle, conditions: GivenConditions) -> "ChosenSizes":
        """Return the size of each trajectory: of those that the options name, or of its record of conditions."""
        manifest, chosen = bundle.manifest, list[dict[str, int]]()
        names = [size.name for size in manifest.sizes]
        for text in self.size:
            numbers = text.split("x")
            if len(numbers) != len(names) or not all(number.isascii() and number.isdecimal() for number in numbers):
                form = "x".join(name.upper() for name in names)
                fix = f"write {form} for each" if names else "leave --size out: x has one shape"
                raise UserError(f"--size {text!r} does not give the size of x", fix)
            chosen.append({name: int(number) for name, number in zip(names, numbers, strict=True)})
            apply_sizes(manifest, chosen[-1])
        usual = default_sizes(manifest.x_shape, manifest.sizes)
        if manifest.space.fixes_shape and any(sizes != usual for sizes in chosen):
            what = f"--size {','.join(self.size)}: this bundle samples tokens, and its plans work for one size only"
            raise UserError(what, "leave --size out, and calibrate at the default size")
        if conditions.records and any(condition.follows for condition in manifest.conditions) and chosen:
            what = "--size cannot be used with your own conditions, whose shapes give each sample its size"
            raise UserError(what, "leave --size out, and give conditions of each size (--conditions FOLDER)")
        if self.trajectories < len(chosen):
            raise UserError(
                f"{trajectories_text(self.trajectories)} cannot cover all sizes of --size {','.join(self.size)}",
                f"follow at least {len(chosen)} (--trajectories {len(chosen)}), or name fewer sizes",
            )
        turns = [number % len(chosen) for number in range(self.trajectories)] if chosen else []
        sizes = tuple(chosen[turns[place]] for place in alternate(turns))
        shapes = [apply_sizes(manifest, sizes_of_x).x_shape for sizes_of_x in chosen or conditions.sizes_of(manifest)]
        return ChosenSizes(sizes, max(map(prod, shapes)))

    def command_for(self, plan: AnyPlan, targets: Sequence[str]) -> str:
        """Return the command that repeats this calibration for some of the targets. File paths are replaced by FILE.
        `calibration_settings.py` parses it."""
        again = replace(
            self,
            plan=NamedReference(split_plan_name(plan.name)),  # the name of a transformed plan only describes it
            guidance=plan.guidance if to_text(plan.guidance) else None,
            target=tuple(targets),
            conditions=self.conditions and Path("FOLDER" if self.conditions.is_dir() else "FILE"),
            prompts=self.prompts and Path("FILE"),
        )
        return again.command_line("calibrate", always=("plan", "target", "trajectories", "groups", "seed"))


@dataclass(frozen=True)
class ChosenSizes:
    """The sizes of x that the options name, one for each trajectory, each with a value for every dynamic axis. Without
    any, sizes follow from the conditions, or are the default.

    elements: the number of elements of x at the largest size.
    """

    sizes: tuple[Mapping[str, int], ...]
    elements: int


def warn_of_few(options: CalibrateOptions) -> None:
    """Log a warning if there are too few trajectories to measure the ranges of activations reliably."""
    if options.trajectories < FEW:
        LOG.warning(
            "the range of activations is uncertain after %s: int8 may clip activations of other samples; use 64"
            " (--trajectories 64)",
            trajectories_text(options.trajectories),
        )


@dataclass(frozen=True)
class CheckedOptions:
    """The values of the options that do not depend on the bundle.

    targets: the targets to lower for, without duplicates.
    bound: the bound that the search for a precision map has to meet.
    seeds: one for each trajectory.
    """

    targets: tuple[Target, ...]
    bound: Bound | None
    seeds: range


def check_options(options: CalibrateOptions) -> CheckedOptions:
    """Check the options that do not depend on the bundle. Raises UserError for the first that is wrong."""
    bound, targets, seeds = parse_bound(options.quality, options.speed), _load_targets(options), _parse_seeds(options)
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
    return CheckedOptions(targets, bound, seeds)


def refuse_bound(bundle: Bundle) -> None:
    """Raise UserError if the bundle has a token denoiser or several networks. It is for calls with --quality or
    --speed: such a bound is met by choosing the precision of a single network."""
    count = len(networks(bundle.manifest))
    if count > 1 or not bundle.manifest.space.has_squared_error:
        what = f"a bundle of {count} networks" if count > 1 else "a token denoiser"
        raise UserError(f"--quality and --speed cannot be used for {what}", "leave them out")


def _load_targets(options: CalibrateOptions) -> tuple[Target, ...]:
    """Return the targets by their names. Raises UserError for an unknown name."""
    chosen = tuple(load_target(name) for name in options.targets)
    return chosen if options.half == "float16" else tuple(axis.wider or axis for axis in chosen)


def _parse_seeds(options: CalibrateOptions) -> range:
    """Return the seeds of the trajectories. Raises UserError if there are none or too many, or if some are reserved for
    judging bodies."""
    if options.trajectories < 1:
        raise UserError(f"{options.trajectories} trajectories are too few", "use at least 1, preferably 64")
    if options.trajectories > MOST_TRAJECTORIES:
        raise UserError(f"{options.trajectories} trajectories are too many", "use 64, or a few hundred")
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


def _scheduler_clip(compiler: PlanCompiler) -> Clip | None:
    """Return the clip of x0 in the config of the denoiser's scheduler, or None if there is none."""
    if compiler.bundle.manifest.scheduler is None:
        return None
    with suppress(UserError):
        plan = compiler.compile(SchedulerReference(2), None, {})  # any number of steps has the same clip
        shaping = shaping_of(plan)
        return shaping if isinstance(shaping, Clip) else None
    return None
