"""`fewstep run`: sample a bundle into a grid of images, or an array."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.cli.conditions import parse_conditions, parse_sizes
from fewstep.cli.outcome import Outcome, counted
from fewstep.cli.run_backend import opened
from fewstep.cli.run_output import ARRAY, PICTURE, columns_of, scale_of, write
from fewstep.cli.run_plan import (
    check_given_by_options,
    check_name,
    check_tokens,
    default_guidance,
    default_plan,
    default_shaping,
    known_tokens,
    unlike_calibration,
)
from fewstep.cli.run_tiles import Tiling, tiling
from fewstep.graph.output import check_writable
from fewstep.measure.rollouts.metrics import LEAST_PSNR
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import UNCOND, Guidance, as_guidance, describe, weights
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import clip_to
from fewstep.plans.tokens import IDS
from fewstep.plans.tracer import IMAGE
from fewstep.report.choosing.chosen import Chosen, chosen
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.backends.named import named
from fewstep.runtime.bundle.companions import image_shape
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.conditions import is_led_by_guidance
from fewstep.runtime.execute import StepState
from fewstep.runtime.finite import finite_sample
from fewstep.runtime.loading import choose_body
from fewstep.runtime.lora.adapted import slots_in
from fewstep.runtime.lora.file import with_strength
from fewstep.runtime.machine.memory import peak
from fewstep.runtime.options import Options
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.request import read_plan
from fewstep.runtime.runs.tiled_images import decode_tiles, tiled_image_shape
from fewstep.runtime.runs.tiles import tiled_steps
from fewstep.runtime.sizes import output_shape, sized
from fewstep.runtime.text import load_text_encoder

LOG = logging.getLogger("fewstep")
CPU = "onnxruntime"
SAMPLES = 16  # where nothing says how many
BATCH = 64  # samples of one call; more would only cost memory
BATCH_ELEMENTS = 2**16  # of a prediction in one call: 4 latents of 512 pixels
LIMIT = 100_000  # samples of one file
SCALE_LIMIT = 64
DRAWN = ("columns", "scale")  # options of pictures alone
PIXELS_LIMIT = 2**27  # of one picture: 400 MB in colour, and no viewer opens more
Named = Mapping[str, NDArray[np.floating]]  # outputs beside the samples, of one batch
Values = Mapping[str, Sequence[Any]]  # of each condition; the samples take them in turn


@dataclass(frozen=True)
class RunOptions(Options):
    """Sample a bundle into an image grid (.png) or an array (.npy).

    bundle: The bundle's folder.
    plan: SOLVER:STEPS, scheduler:STEPS, fitted:STEPS for a plan that `fewstep fit` made, or the path of a plan's JSON.
        Default: the plan along which the bundle was calibrated (for float32 too), else scheduler:20 if the model came
        with its scheduler, else dpmpp_2m:8.
    precision: float32, int8 (made by `fewstep calibrate`), or on a GPU float16 (made by `fewstep build`).
    samples: Number of samples. Default: one for each prompt, or 16.
    prompt: The content of a picture in words, for a bundle with a text encoder. Given several times, the samples take
        turns.
    negative: The content to lead away from, in words. Given several times, the samples take turns.
    condition: NAME=VALUE, NAME=LABEL, or NAME=@FILE.npy for one array or an array of them. Given several times for one
        name, the samples take the values in turn.
    adapter: FILE.safetensors, or FILE.safetensors:STRENGTH, of a LoRA for a bundle with slots (export --lora-slots).
        Several add up.
    guidance: Weight of classifier-free guidance; pag:SCALE for perturbed attention, steer:WEIGHT for a gradient; with a
        plus for several, as 2+pag:3; 1 runs the conditional branch alone. Default: as calibrated, else 1.
    clip: Clip each prediction of the clean sample to [-CLIP, CLIP]. Default: as the calibrated plan does, if no --plan
        is given.
    size: NAME=NUMBER for a free size of the bundle, as height=96. Each other free size has its default. With --tiles
        it is the whole sample's, and a bundle of one size takes height and width too, or length.
    tiles: WINDOW:OVERLAP, as 256:64: the network runs on overlapping windows of a larger sample.
    image: A picture to start from, with --strength.
    known: A .npy file of tokens that stay, -1 where one is open: of one sample, or of N that samples take in turn. For
        denoisers of tokens.
    strength: Share of the plan's steps that are run, above 0 and up to 1: the picture is noised that far.
    seed: Seed of the first sample; the others count up from it.
    output: The file to write. A .png file has pictures; a .npy file has x as it is sampled, which may be latents. Named
        outputs go to files beside it, as samples.depth.npy.
    columns: Samples in a row of the grid. Default: a square grid.
    scale: Enlargement of each pixel. Default: 3 for samples of up to 64 pixels, else none.
    threads: Threads on the CPU, for onnxruntime and openvino; 0 for one per physical core.
    backend: The engine that runs the bundle: onnxruntime, onnxruntime-cuda, openvino, openvino-bf16, tensorrt,
        tensorrt-rtx, qnn.
    chosen: Run the plan, body and engine that `fewstep choose` chose last on this machine, with its guidance.
    """

    bundle: Path
    plan: str | None = None
    precision: str = "float32"
    samples: int | None = field(default=None, metadata={"short": "-n"})
    prompt: tuple[str, ...] = field(default=(), metadata={"short": "-p", "whole": True})
    negative: tuple[str, ...] = field(default=(), metadata={"whole": True})
    condition: tuple[str, ...] = field(default=(), metadata={"short": "-c"})
    adapter: tuple[str, ...] = field(default=(), metadata={"whole": True})
    guidance: float | Guidance | None = None
    clip: float | None = None
    size: tuple[str, ...] = ()
    tiles: str | None = None
    image: Path | None = None
    known: Path | None = None
    strength: float | None = None
    seed: int = 0
    output: Path = field(default=Path("grid.png"), metadata={"short": "-o"})
    columns: int | None = None
    scale: int | None = None
    threads: int = 0
    backend: str = CPU
    chosen: bool = False

    @property
    def count(self) -> int:
        """How many samples are asked for."""
        return (len(self.prompt) or SAMPLES) if self.samples is None else self.samples


def verb(options: RunOptions, progress: Progress) -> Outcome:
    started = time.perf_counter()
    options, choice = _as_chosen(options)
    x, plan = _run(guided := _with_guidance(options, choice), choice, progress)
    seconds, samples = time.perf_counter() - started, counted(len(x), "sample")
    most = peak() if options.tiles else None
    memory = "" if most is None else f", {most >> 20} MiB at its peak"
    value = {"output": options.output, "shape": x.shape, "plan": plan, "seconds": seconds}
    own = "" if options == guided else f", guidance {describe(as_guidance(guided.guidance))} as calibrated"
    more = ({} if most is None else {"peak_bytes": most}) | ({} if choice is None else {"choice": choice})
    return Outcome(
        value | more,
        (f"{options.output}: {samples} of {plan} in {options.precision}{own}, {seconds:.1f} s with loading{memory}",),
    )


def run(options: RunOptions, progress: Progress = SILENT) -> tuple[NDArray[np.float32], str]:
    """The samples [N, C, H, W] that were written, and the name of the plan that made them."""
    options, choice = _as_chosen(options)
    return _run(_with_guidance(options, choice), choice, progress)


def _as_chosen(options: RunOptions) -> tuple[RunOptions, Chosen | None]:
    """The options with what was chosen on this machine in them, and the choice, where they ask for it."""
    if not options.chosen:
        return options, None
    plain = RunOptions(options.bundle)
    for name in ("plan", "precision", "backend", "threads", "guidance", "clip"):
        if getattr(options, name) != getattr(plain, name):
            raise UserError(f"--chosen with --{name}", "leave one of them out: a choice has its own")
    choice = chosen(options.bundle)
    if choice.winner.psnr < LEAST_PSNR:
        LOG.warning("the choice is only %.1f dB from the teacher: look at its samples", choice.winner.psnr)
    options = replace(options, plan=choice.winner.plan, guidance=choice.guidance, precision=choice.winner.precision)
    return replace(options, backend=choice.winner.backend, threads=choice.winner.threads), choice


def _with_guidance(options: RunOptions, choice: Chosen | None) -> RunOptions:
    """The options with the default guidance in them. What is wrong with them is told by the run."""
    if options.guidance is None and choice is None:
        with suppress(UserError):
            bundle = open_bundle(options.bundle)
            body = choose_body(bundle, options.precision, named(options.backend, options.threads))
            return replace(options, guidance=default_guidance(bundle, bundle.body(body), options.plan))
    return options


def _run(options: RunOptions, choice: Chosen | None, progress: Progress) -> tuple[NDArray[np.float32], str]:
    """The samples, and the plan's name.

    Text encoder, denoiser and decoder are loaded one after the other: together they may be more than memory holds.
    """
    _check(options)
    sizes = parse_sizes(options.size)
    if options.plan is not None:
        check_name(options.plan)
    bundle = open_bundle(options.bundle)
    choose_body(bundle, options.precision, named(options.backend, options.threads))
    if options.adapter:
        slots_in(bundle)
    tiled = None if options.tiles is None else tiling(options.tiles, sizes, bundle.manifest)
    manifest = sized(bundle.manifest, sizes if tiled is None else tiled.sizes)
    bundle = replace(
        bundle, manifest=manifest if tiled is None else msgspec.structs.replace(manifest, x_shape=tiled.shape)
    )
    _check_latents(options, bundle, tiled)
    refused = {"clip": options.clip, "image": options.image, "tiles": options.tiles}
    check_tokens(bundle, refused, options.output.suffix == PICTURE)
    _check_picture(options, _drawn_shape(options, bundle, tiled))
    own = parse_conditions(options.condition, bundle.manifest.conditions, of_any_size=tiled is not None)
    values, negative = _with_prompts(options, bundle, own)
    given: Values = {} if options.known is None else {IDS: known_tokens(options.known, bundle)}
    if options.image is not None:
        given = {IMAGE: [_start(options.image, bundle, options.threads)]}
    batch = _batch(options, bundle.manifest)
    branches = {UNCOND: negative} if negative else {}
    x, plan, beside = _sampled(options, choice, tiled or sizes, batch, values, branches, given, progress)
    if options.output.suffix == PICTURE and bundle.manifest.autoencoder is not None:
        decoder = load_autoencoder(bundle, options.threads, encoder=False)
        x = decoder.decode(x) if tiled is None else decode_tiles(decoder, x, tiled.tiles)
    write(x, options.output, options.columns, options.scale)
    for name, tensor in beside.items():
        write(tensor, options.output.with_suffix(f".{name}{ARRAY}"), None, None)
    return x, plan


def _with_prompts(options: RunOptions, bundle: Bundle, values: Values) -> tuple[Values, Values]:
    """The conditions with those that the prompts are, and the conditions of the unconditional branch."""
    described = bundle.manifest.text
    worded = set() if described is None else {tensor.name for tensor in described.graph.outputs}
    if not options.prompt and not worded <= set(values):
        raise UserError(f"{options.bundle} takes in words what to show", 'say what: --prompt "..."')
    if not options.prompt and not options.negative:
        return values, {}
    text = load_text_encoder(bundle, options.threads)
    positive = {name: list(rows) for name, rows in text.encode(options.prompt).items()} if options.prompt else {}
    twice = sorted(set(positive) & set(values))
    if twice:
        raise UserError(f"condition {twice[0]!r} is given, and the prompts set it too", "leave one of them out")
    negative = text.encode(options.negative) if options.negative else {}
    values, away = {**values, **positive}, {f"negative_{name}": list(rows) for name, rows in negative.items()}
    if not away.keys() & {condition.name for condition in bundle.manifest.conditions}:
        return values, {name: list(rows) for name, rows in negative.items()}
    if not any(values.get("negative_scale", ())):  # it leads away inside of attention
        raise UserError("--negative has no effect at negative_scale 0", "give a scale: -c negative_scale=0.2")
    return {**away, **values}, {}


def _start(image: Path, bundle: Bundle, threads: int) -> NDArray[np.float32]:
    """x [*x_shape] of a picture."""
    from fewstep.report.drawing import pictures

    shape = image_shape(bundle.manifest)
    if len(shape) != 3:
        raise UserError(f"x has the shape {list(shape)}, and is no picture", "leave --image out")
    picture = pictures.read(image, shape)
    if bundle.manifest.autoencoder is None:
        return picture
    latent: NDArray[np.float32] = load_autoencoder(bundle, threads).encode(picture[None])[0]
    return latent


def _sampled(
    options: RunOptions,
    choice: Chosen | None,
    shape: Tiling | Mapping[str, int],
    batch: int,
    values: Values,
    branches: Mapping[str, Values],
    given: Values,
    progress: Progress,
) -> tuple[NDArray[np.float32], str, dict[str, NDArray[np.float32]]]:
    """The samples [N, *x_shape], `batch` at a time, the plan's name, and the named outputs of the last evaluations.
    `shape` has the sizes of a sample, or says how it is tiled."""
    count, parts, left = options.count, [], list[Named]()
    sizes = shape.sizes if isinstance(shape, Tiling) else shape
    engine = (options.precision, options.backend, options.threads, batch * _branches(options), choice)
    with opened(options.bundle, *engine) as loaded:
        adapters: dict[str | PathLike[str], float] = {}
        for path, strength in (with_strength(text, "--adapter") for text in options.adapter):
            adapters[path] = adapters.get(path, 0.0) + strength
        sampler = loaded.at(adapters=adapters, **sizes)
        wanted = options.plan or default_plan(sampler, options.strength)
        shaping = None if choice is None else choice.shaping
        if options.plan is None:
            shaping = default_shaping(sampler, wanted)
        plan = sampler.compile(
            wanted,
            options.guidance,
            shaping=clip_to(options.clip) or shaping,
            strength=options.strength,
            branches=branches,
        )
        check_given_by_options(plan, {*values, *given})
        if branches and not any(UNCOND in step.branches for step in plan.steps):
            raise UserError("--negative without guidance has no effect", "give a weight: --guidance 7.5")
        if options.prompt and options.guidance is None and is_led_by_guidance(sampler.bundle.manifest.conditions):
            LOG.warning("no --guidance: most models follow a prompt closely at 4 to 8 only, distilled ones without it")
        if (unlike := unlike_calibration(sampler.bundle, sampler.body, plan)) is not None:
            LOG.warning("%s", unlike)
        for start in range(0, count, batch):
            places = range(start, min(start + batch, count))
            seeds = [options.seed + place for place in places]
            asked: dict[str, Any] = {
                "condition": _in_turn(values, places),
                "branches": {branch: _in_turn(rows, places) for branch, rows in branches.items()},
                "given": {name: np.stack(rows) for name, rows in _in_turn(given, places).items()},
            }
            states = (
                tiled_steps(sampler, plan, shape.shape, shape.tiles, seeds, **asked)
                if isinstance(shape, Tiling)
                else sampler.steps(plan, seeds, **asked)
            )
            parts.append(_sample(states, plan, seeds, progress, left))
    beside = {name: np.concatenate([each[name] for each in left]) for name in left[0]} if left else {}
    return np.concatenate(parts), plan.name, beside


def _batch(options: RunOptions, manifest: Manifest) -> int:
    """Samples that run together, of a whole sample's shape. Logits are many numbers for each token."""
    elements = prod(map(int, output_shape(manifest, manifest.x_shape)))
    return max(1, min(options.count, BATCH, BATCH_ELEMENTS // elements))


def _branches(options: RunOptions) -> int:
    """Rows of x in a call of the network for each sample."""
    if options.plan is not None and options.plan.endswith(".json"):
        return max(len(step.branches) for step in read_plan(Path(options.plan)).steps)
    return len(weights(as_guidance(options.guidance), 0, 0.0))


def _in_turn(values: Values, places: Sequence[int]) -> dict[str, list[Any]]:
    """The values of the samples at these places."""
    return {name: [each[place % len(each)] for place in places] for name, each in values.items()}


def _sample(
    states: Iterator[StepState], plan: Plan, seeds: Sequence[int], progress: Progress, left: list[Named]
) -> NDArray[np.float32]:
    """The sample that a run ends with, with progress after each step. What the run leaves goes to `left`."""

    which = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"

    def told() -> Iterator[StepState]:
        for state in states:
            progress(which, state.index + 1, len(plan.steps))
            yield state
        if isinstance(state, StepState) and state.slots is not None and state.slots.named:
            left.append({name: tensor.copy() for name, tensor in state.slots.named.items()})  # not the carried ones

    return finite_sample(plan, told())


def _check(options: RunOptions) -> None:
    """What can be refused before anything is loaded."""
    if not 1 <= options.count <= LIMIT:
        raise UserError(f"{options.count} samples in one file", f"ask for 1 to {LIMIT}")
    if options.output.suffix not in (PICTURE, ARRAY):
        raise UserError(f"cannot write {options.output}", "name a .png (a grid of images) or a .npy (an array)")
    check_writable(options.output)
    for name, value in (("columns", options.columns), ("scale", options.scale)):
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}", "give at least 1")
    if options.scale is not None and options.scale > SCALE_LIMIT:
        raise UserError(f"--scale {options.scale}", f"give at most {SCALE_LIMIT}")
    if options.output.suffix == ARRAY and (given := [name for name in DRAWN if getattr(options, name) is not None]):
        raise UserError(f"--{given[0]} with {options.output}, which has no pixels", "leave it out, or name a .png")
    if (options.image is None) != (options.strength is None):
        alone, other = ("--strength", "--image FILE") if options.image is None else ("--image", "--strength 0.6")
        raise UserError(f"{alone} alone says too little", f"give {other} with it")


def _drawn_shape(options: RunOptions, bundle: Bundle, tiled: Tiling | None) -> tuple[int, ...]:
    """The shape of a sample as it is drawn, or written as an array."""
    described = bundle.manifest.autoencoder
    if options.output.suffix != PICTURE:
        return bundle.manifest.x_shape
    if tiled is None or described is None:
        return image_shape(bundle.manifest)
    return tiled_image_shape(described, tiled.shape, tiled.tiles)


def _check_latents(options: RunOptions, bundle: Bundle, tiled: Tiling | None) -> None:
    """Refuse, before sampling, latents of a size that the bundle's autoencoder does not take."""
    described = bundle.manifest.autoencoder
    if described is None or (options.output.suffix == ARRAY and options.image is None):
        return
    takes = described.decoder.inputs[0].shape[1:]
    if tiled is not None and options.image is None:
        tiled_image_shape(described, tiled.shape, tiled.tiles)
    elif takes != bundle.manifest.x_shape:
        array = "" if options.image is not None else ", or write the latents as an array (.npy)"
        raise UserError(
            f"the autoencoder of {options.bundle} takes latents {list(takes)}, not {list(bundle.manifest.x_shape)}",
            f"leave --size out{array}",
        )


def _check_picture(options: RunOptions, shape: tuple[int, ...]) -> None:
    """Refuse, before sampling, what is no picture, or too large for one. Gaps between samples are not counted."""
    if options.output.suffix != PICTURE:
        return
    from fewstep.report.drawing import pictures

    pictures.check_shape(shape)
    height, width = shape[-2:]
    columns = min(options.columns or columns_of(options.count), options.count)
    rows, scale = -(-options.count // columns), options.scale or scale_of(shape)
    height, width = rows * height * scale, columns * width * scale
    if height * width > PIXELS_LIMIT:
        raise UserError(
            f"a picture of {width} x {height} pixels is too large",
            f"lower --scale or --samples (at most {PIXELS_LIMIT} pixels), or write an array (.npy)",
        )
