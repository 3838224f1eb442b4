"""The request of `fewstep run`: everything that is checked and read before the denoiser is loaded."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import msgspec

from fewstep.cli.conditions import load_arrays, parse_conditions, parse_sizes, refuse_texts
from fewstep.cli.run.batches import batch_size
from fewstep.cli.run.choice import apply_choice
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.pictures import check_latents, check_picture, find_image_shape, find_rate, read_start
from fewstep.cli.run.records import add_records, count_rows, names_of_files, sizes_of_records
from fewstep.cli.run.tiles import Tiling, parse_tiling
from fewstep.cli.run.token_options import check_token_options
from fewstep.cli.run_plan import count_branches, needs_negative
from fewstep.graph.files.output_files import check_writable
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import UNCOND
from fewstep.plans.tokens.plan import IDS
from fewstep.report.choosing.saved_choice import SavedChoice
from fewstep.runtime.backends.registry import companion_engine, create_backend
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.hub import fetch_bundle, is_name
from fewstep.runtime.kinds.companions import image_shape
from fewstep.runtime.kinds.sizes import apply_sizes
from fewstep.runtime.memory_size import parse_bytes
from fewstep.runtime.prompts import Values, add_prompt_conditions
from fewstep.runtime.sampling.adapters import require_slots
from fewstep.runtime.sampling.calibrated_plans import Defaults, find_defaults
from fewstep.runtime.sampling.execute import Hold
from fewstep.runtime.sampling.loading import choose_body
from fewstep.runtime.text import BATCH

if TYPE_CHECKING:
    from fewstep.report.choosing.memory_plan import MemoryPlan

LOG = logging.getLogger("fewstep")


@dataclass(frozen=True)
class RunRequest:
    """The inputs of a sampling run.

    options: completed with the saved choice or the calibrated guidance.
    bundle: at the size of the whole sample.
    sizes: sizes of one network call. tiled: the windows of the sample, if it is tiled.
    values, branches, given: conditions, conditions of other branches, and start tensors. Samples cycle through each.
    hold: the part of an image that all samples keep.
    defaults: what the calibration passes to this run, where the options do not say otherwise.
    rate: frames or samples per second of the file to write; None for images and arrays.
    memory: the plan for --memory.
    """

    options: RunOptions
    choice: SavedChoice | None
    bundle: Bundle
    sizes: Mapping[str, int]
    tiled: Tiling | None
    values: Values
    branches: Mapping[str, Values]
    given: Values
    hold: Hold | None = None
    defaults: Defaults = Defaults()
    rate: float | None = None
    memory: "MemoryPlan | None" = None


def open_request(options: RunOptions) -> RunRequest:
    """Check the options of `fewstep run`, open the bundle, and prepare everything that sampling needs.

    The text encoder and the image encoder are loaded and closed here, because memory may not suffice for them and the
    denoiser at once.
    """
    check_writable(options.output)
    if is_name(name := options.bundle.as_posix()):
        options = replace(options, bundle=fetch_bundle(name))
    options, choice = apply_choice(options)
    sizes = parse_sizes(options.size)
    bundle = options.open()
    sizes = sizes or sizes_of_records(options, bundle.manifest)
    if options.adapter:
        require_slots(bundle)
    tiled = parse_tiling(options.tiles, sizes, bundle.manifest)
    sizes = sizes if tiled is None else {**tiled.sizes}
    manifest = apply_sizes(bundle.manifest, sizes)
    if tiled is not None:
        manifest = msgspec.structs.replace(manifest, x_shape=tiled.shape)
    bundle = replace(bundle, manifest=manifest)
    check_token_options(options, bundle)
    check_latents(options, bundle, tiled)
    refuse_texts(options.condition, manifest)
    parsed = parse_conditions(options.condition, manifest.conditions, tiled is not None, manifest.sizes)
    asked = options.samples
    options = count_rows(options, parsed)
    _check_counts(options)
    options, own, branches = add_records(options, parsed, manifest)
    _warn_of_rows(options, own, asked)
    rate = find_rate(options, bundle)
    if options.is_picture:
        check_picture(options, find_image_shape(bundle, tiled))
    name = choose_body(bundle, options.precision, create_backend(options.backend, options.threads))
    body, bundle = bundle.body(name), bundle.with_graphs_of(name)
    defaults = find_defaults(bundle, body, options.plan) if choice is None else choice.defaults
    guidance = defaults.guidance if options.guidance is None else options.guidance
    options = replace(options, precision=body.precision, guidance=guidance)
    memory = _plan_memory(options, bundle, name, choice)
    values, negative = _encode_prompts(options, bundle, own, branches)
    if negative:
        if UNCOND in branches:
            raise UserError(f"{options.conditions} has a negative prompt already", "leave --negative out")
        branches = {**branches, UNCOND: negative}
    _refuse_missing_arrays(manifest, values)
    given: Values = {}
    if options.known is not None and options.image is None:
        given = {IDS: load_arrays("--known", options.known, manifest.x_shape, of_any_size=False)}
    hold = None
    if options.image is not None:
        given, hold = read_start(options, options.image, bundle)
    return RunRequest(options, choice, bundle, sizes, tiled, values, branches, given, hold, defaults, rate, memory)


def _refuse_missing_arrays(manifest: Manifest, values: Values) -> None:
    for condition in manifest.conditions:
        if condition.shape and condition.default is None and condition.name not in values:
            shape = list(condition.shape)
            fix = f"arrays of shape {shape} as a file: --condition {condition.name}=@FILE.npy, or --conditions FILE.npz"
            raise UserError(f"condition {condition.name!r} is missing", f"give {fix}")


def _encode_prompts(
    options: RunOptions, bundle: Bundle, own: Values, branches: Mapping[str, Values]
) -> tuple[Values, Values]:
    """Return the conditions with those that the prompts encode, and those of the unconditional branch. A guided run
    without a negative prompt has that of the bundle, if there is one."""
    text, negatives = bundle.manifest.text, options.negatives
    if text is not None and text.nothing is not None and options.prompts and UNCOND not in branches:
        is_read = needs_negative(options.plan, options.guidance)
        negatives = negatives or ((text.nothing,) if is_read else ())
    engine = companion_engine(options.backend, options.threads)
    return add_prompt_conditions(bundle, own, options.prompts, negatives, options.threads, engine)


def _plan_memory(options: RunOptions, bundle: Bundle, body: str, choice: SavedChoice | None) -> "MemoryPlan | None":
    """Return the plan for --memory, or for that of a choice, after it is printed; None without it."""
    if options.memory is None:
        return None
    from fewstep.report.choosing.memory_plan import TooLittleMemory, plan_memory  # only --memory needs it

    try:
        plan = plan_memory(
            bundle,
            body,
            parse_bytes(options.memory),
            samples=batch_size(options, bundle.manifest),
            branches=count_branches(options.plan, options.guidance),
            prompts=sorted({*options.prompts, *options.negatives}, key=len)[-BATCH:],
            pictures=0 if options.is_array else 4 * prod(image_shape(bundle.manifest)) * options.count,
            threads=options.threads,
        )
    except TooLittleMemory as error:
        if choice is None:
            raise
        what = f"the choice of {choice.day} allows {choice.memory}, and {error.what}"
        raise UserError(what, "give fewer --samples, or choose again with more memory") from error
    LOG.warning("%s", plan.describe())
    return plan


def _warn_of_rows(options: RunOptions, values: Values, asked: int | None) -> None:
    """Log a warning if a file of --condition has more than one row but fewer than there are samples, so that rows are
    repeated, or if it has more and nobody asked for this number of samples."""
    for name in names_of_files(options):
        if 1 < (rows := len(values[name])) < options.count:
            LOG.warning("%d rows of condition %r for %d samples: the rows are repeated", rows, name, options.count)
        elif rows > options.count and asked is None:
            LOG.warning("%d rows of condition %r for %d samples: the others are left out", rows, name, options.count)


def _check_counts(options: RunOptions) -> None:
    """Raise UserError if there are more values on the command line than samples, so that --samples would leave some
    out. Without --samples, the prompts decide. Rows of files may be left out."""
    names = [text.partition("=")[0] for text in options.condition if "=@" not in text]
    for what, count in (
        *((f"--condition {name}", names.count(name)) for name in names),
        ("--prompt", sum(not text.startswith("@") for text in options.prompt)),
        ("--negative", sum(not text.startswith("@") for text in options.negative)),
    ):
        if count > options.count:
            raise UserError(
                f"{what} is given {count} times, for {options.count} samples",
                f"give --samples {count}, or fewer values",
            )
