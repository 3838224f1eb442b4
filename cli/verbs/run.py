"""`fewstep run`: sample a bundle into a grid of images, or an array."""

import logging
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.cli.conditions import parse_conditions, parse_sizes
from fewstep.cli.outcome import Outcome, counted
from fewstep.cli.run_checks import check_latents, check_options, check_picture, drawn_shape
from fewstep.cli.run_options import RunOptions
from fewstep.cli.run_output import ARRAY, PICTURE, write
from fewstep.cli.run_plan import check_name, check_tokens, default_guidance, known_tokens
from fewstep.cli.run_sampling import batch_of, sampled
from fewstep.cli.run_tiles import tiling
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import UNCOND, as_guidance, describe
from fewstep.plans.plan import IMAGE
from fewstep.plans.tokens import IDS
from fewstep.report.choosing.chosen import Chosen, chosen
from fewstep.runtime.backends.named import named
from fewstep.runtime.bundle.companions import image_shape
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.loading import choose_body
from fewstep.runtime.lora.adapted import slots_in
from fewstep.runtime.machine.memory import peak
from fewstep.runtime.pictures import pictures_of, sample_of
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.prompts import Values, with_prompts
from fewstep.runtime.sizes import sized

LOG = logging.getLogger("fewstep")


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
    engine, near = choice.winner.engine, choice.winner.quality.nearness
    if not near.is_enough:
        LOG.warning("the choice is only %s: look at its samples", near.sentence("the teacher"))
    options = replace(options, plan=choice.winner.plan, guidance=choice.guidance, precision=choice.winner.precision)
    return replace(options, backend=engine.backend, threads=engine.threads), choice


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
    check_options(options)
    sizes = parse_sizes(options.size)
    if options.plan is not None:
        check_name(options.plan)
    bundle = open_bundle(options.bundle)
    if options.adapter:
        slots_in(bundle)
    tiled = None if options.tiles is None else tiling(options.tiles, sizes, bundle.manifest)
    manifest = sized(bundle.manifest, sizes if tiled is None else tiled.sizes)
    bundle = replace(
        bundle, manifest=manifest if tiled is None else msgspec.structs.replace(manifest, x_shape=tiled.shape)
    )
    check_latents(options, bundle, tiled)
    refused = {"clip": options.clip, "image": options.image, "tiles": options.tiles}
    check_tokens(bundle, refused, options.output.suffix == PICTURE)
    check_picture(options, drawn_shape(options, bundle, tiled))
    own = parse_conditions(options.condition, bundle.manifest.conditions, of_any_size=tiled is not None)
    choose_body(bundle, options.precision, named(options.backend, options.threads))
    values, negative = with_prompts(bundle, own, options.prompt, options.negative, options.threads)
    given: Values = {} if options.known is None else {IDS: known_tokens(options.known, bundle)}
    if options.image is not None:
        given = {IMAGE: [_start(options.image, bundle, options.threads)]}
    batch = batch_of(options, bundle.manifest)
    branches = {UNCOND: negative} if negative else {}
    made = sampled(options, choice, tiled or sizes, batch, values, branches, given, progress)
    x = made.x
    if options.output.suffix == PICTURE:
        x = pictures_of(bundle, x, None if tiled is None else tiled.tiles, options.threads)
    write(x, options.output, options.columns, options.scale)
    for name, tensor in made.beside.items():
        write(tensor, options.output.with_suffix(f".{name}{ARRAY}"), None, None)
    return x, made.plan


def _start(image: Path, bundle: Bundle, threads: int) -> NDArray[np.float32]:
    """x [*x_shape] of a picture."""
    from fewstep.report.drawing import pictures

    shape = image_shape(bundle.manifest)
    if len(shape) != 3:
        raise UserError(f"x has the shape {list(shape)}, and is no picture", "leave --image out")
    return sample_of(bundle, pictures.read(image, shape), threads)
