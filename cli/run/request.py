"""The request of `fewstep run`: everything that is checked and read before the denoiser is loaded."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.cli.conditions import load_arrays, parse_conditions, parse_sizes
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.output import default_scale, square_columns
from fewstep.cli.run.tiles import Tiling, parse_tiling
from fewstep.cli.run.token_options import check_token_options
from fewstep.graph.files.output_files import check_writable
from fewstep.measure.rollouts.conditions_file import read_branches
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, UNCOND
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.plan import IMAGE
from fewstep.plans.tokens.plan import IDS
from fewstep.report.choosing.saved_choice import SavedChoice, load_choice
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.companions import image_shape
from fewstep.runtime.kinds.sizes import apply_sizes
from fewstep.runtime.pictures import sample_of
from fewstep.runtime.prompts import Values, add_prompt_conditions
from fewstep.runtime.runs.tiled_images import tiled_image_shape
from fewstep.runtime.sampling.adapters import require_slots
from fewstep.runtime.sampling.calibrated_plans import default_guidance
from fewstep.runtime.sampling.loading import choose_body

LOG = logging.getLogger("fewstep")
PIXELS_LIMIT = 2**27  # of one picture: 400 MB in colour, which is more than most viewers open


@dataclass(frozen=True)
class RunRequest:
    """The inputs of a sampling run.

    options: completed with the saved choice or the calibrated guidance.
    bundle: at the size of the whole sample.
    sizes: sizes of one network call. tiled: the windows of the sample, if it is tiled.
    values, branches, given: conditions, conditions of other branches, and start tensors. Samples cycle through each.
    """

    options: RunOptions
    choice: SavedChoice | None
    bundle: Bundle
    sizes: Mapping[str, int]
    tiled: Tiling | None
    values: Values
    branches: Mapping[str, Values]
    given: Values


def open_request(options: RunOptions) -> RunRequest:
    """Open the request of these options.

    Text encoder and image encoder are loaded and closed here, since memory may not hold them together with the
    denoiser.
    """
    check_writable(options.output)
    options, choice = _apply_choice(options)
    sizes = parse_sizes(options.size)
    bundle = options.open()
    if options.adapter:
        require_slots(bundle)
    tiled = None if options.tiles is None else parse_tiling(options.tiles, sizes, bundle.manifest)
    sizes = sizes if tiled is None else {**tiled.sizes}
    manifest = apply_sizes(bundle.manifest, sizes)
    if tiled is not None:
        manifest = msgspec.structs.replace(manifest, x_shape=tiled.shape)
    bundle = replace(bundle, manifest=manifest)
    check_token_options(options, bundle)
    _check_latents(options, bundle, tiled)
    parsed = parse_conditions(options.condition, manifest.conditions, of_any_size=tiled is not None)
    options, own, branches = _add_file(options, parsed, manifest)
    if options.is_picture:
        check_picture(options, _image_shape(bundle, tiled))
    body = bundle.body(choose_body(bundle, options.precision, create_backend(options.backend, options.threads)))
    values, negative = add_prompt_conditions(bundle, own, options.prompt, options.negative, options.threads)
    if negative:
        if UNCOND in branches:
            raise UserError(f"{options.conditions} has a negative prompt already", "leave --negative out")
        branches = {**branches, UNCOND: negative}
    for each in manifest.conditions:
        if each.shape and each.default is None and each.name not in values:
            shape = list(each.shape)
            fix = f"give arrays of shape {shape} as a file: --condition {each.name}=@FILE.npy, or --conditions FILE.npz"
            raise UserError(f"condition {each.name!r} is missing", fix)
    given: Values = {}
    if options.known is not None:
        given = {IDS: load_arrays("--known", options.known, manifest.x_shape, of_any_size=False)}
    if options.image is not None:
        given = {IMAGE: [_encode_image(options.image, bundle, options.threads)]}
    if options.guidance is None and choice is None:
        options = replace(options, guidance=default_guidance(bundle, body, options.plan))
    return RunRequest(options, choice, bundle, sizes, tiled, values, branches, given)


def _add_file(options: RunOptions, own: Values, manifest: Manifest) -> tuple[RunOptions, Values, Mapping[str, Values]]:
    """Add the records of --conditions. Return the options with its number of samples, the conditions, and those of
    other branches."""
    if options.conditions is None:
        return options, own, {}
    branches = read_branches(options.conditions, manifest.conditions)
    records: Values = {name: list(array) for name, array in branches.get(COND, {}).items()}
    if twice := sorted(set(records) & set(own)):
        raise UserError(
            f"condition {twice[0]!r} is given, and {options.conditions} has it too", "leave one of them out"
        )
    others: dict[str, Values] = {
        branch: {name: list(array) for name, array in each.items()}
        for branch, each in branches.items()
        if branch != COND
    }
    if options.samples is None and not options.prompt:
        rows = next(len(array) for each in branches.values() for array in each.values())  # all have equally many
        options = replace(options, samples=rows)
    return options, {**own, **records}, others


def _apply_choice(options: RunOptions) -> tuple[RunOptions, SavedChoice | None]:
    """Return the options completed with the saved choice of this machine, and the choice, if --chosen is given."""
    if not options.chosen:
        return options, None
    choice = load_choice(options.bundle)
    winner = choice.winner
    if not winner.quality.nearness.is_enough:
        LOG.warning("the choice is only %s: look at its samples", winner.quality.nearness.describe("the teacher"))
    options = replace(
        options, chosen=False, plan=parse_plan_text(winner.plan), guidance=choice.guidance, precision=winner.precision
    )
    return replace(options, backend=winner.engine.backend, threads=winner.engine.threads), choice


def _check_latents(options: RunOptions, bundle: Bundle, tiled: Tiling | None) -> None:
    """Raise UserError for latents of a size that the bundle's autoencoder does not accept."""
    described, x_shape = bundle.manifest.autoencoder, bundle.manifest.x_shape
    if described is None or not (options.is_picture or options.image) or (tiled is not None and options.image is None):
        return  # windows are decoded separately
    takes = described.decoder.inputs[0].shape[1:]
    if takes != x_shape:
        array = "" if options.image is not None else ", or write the latents as an array (.npy)"
        raise UserError(
            f"the autoencoder of {options.bundle} takes latents {list(takes)}, not {list(x_shape)}",
            f"leave --size out{array}",
        )


def _image_shape(bundle: Bundle, tiled: Tiling | None) -> tuple[int, ...]:
    """Return the shape of a sample as a picture."""
    described = bundle.manifest.autoencoder
    if tiled is None or described is None:
        return image_shape(bundle.manifest)
    return tiled_image_shape(described, tiled.shape, tiled.tiles)


def check_picture(options: RunOptions, shape: tuple[int, ...]) -> None:
    """Raise UserError for samples that are not pictures, and for a picture that is too large (without the gaps)."""
    from fewstep.report.drawing import pictures

    pictures.check_shape(shape)
    height, width = shape[-2:]
    columns = min(options.columns or square_columns(options.count), options.count)
    rows, scale = -(-options.count // columns), options.scale or default_scale(shape)
    height, width = rows * height * scale, columns * width * scale
    if height * width > PIXELS_LIMIT:
        raise UserError(
            f"a picture of {width} x {height} pixels is too large",
            f"lower --scale or --samples (at most {PIXELS_LIMIT} pixels), or write an array (.npy)",
        )


def _encode_image(image: Path, bundle: Bundle, threads: int) -> NDArray[np.float32]:
    """Read a picture and encode it as x [*x_shape]."""
    from fewstep.report.drawing import pictures

    shape = image_shape(bundle.manifest)
    if len(shape) != 3:
        raise UserError(f"x has the shape {list(shape)}, which is not a picture", "leave --image out")
    return sample_of(bundle, pictures.read_picture(image, shape), threads)
