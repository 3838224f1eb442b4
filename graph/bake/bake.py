"""`fewstep bake`: write one ONNX file that computes samples from noise and conditions."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from fewstep.graph.bake.assemble import BakedRun, Parts, assemble
from fewstep.graph.bake.features import features_of
from fewstep.graph.bake.hold import HeldAs
from fewstep.graph.bake.metadata import Baked, describe_run, encode_metadata
from fewstep.graph.bake.network_form import (
    INT8_WEIGHTS,
    body_form,
    convert_network,
    dequantize_before_loops,
    lossy_form,
    precision_in,
)
from fewstep.graph.bake.onnx_adapter import write_onnx_adapter
from fewstep.graph.bake.run_parts import BakedNetwork
from fewstep.graph.bake.run_setup import check_branches
from fewstep.graph.bake.seal import seal
from fewstep.graph.files import io, weights
from fewstep.graph.files.commit import refuse_in_bundle
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.graph import BATCH, Graph
from fewstep.graph.shaping import check_shaping
from fewstep.plans.any_plan import AnyPlan, AnyStep, regroup
from fewstep.plans.argument_checks import PlanReference
from fewstep.plans.errors import UserError
from fewstep.plans.file import read_plan
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import FileReference, TextReference
from fewstep.plans.names.user_call import resolve_call
from fewstep.plans.shaping import clip_to
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.manifest import Body, GraphEntry, Manifest
from fewstep.runtime.bundle.networks import common_bodies, edges_of
from fewstep.runtime.bundle.onnx_references import external_data_files
from fewstep.runtime.bundle.reading import MANIFEST, Bundle
from fewstep.runtime.interrupts import check_interrupted
from fewstep.runtime.kinds.sizes import apply_sizes, default_sizes, free_x_shape, sizes_of
from fewstep.runtime.options import BundleOptions
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.execution import execution_of, plan_for
from fewstep.runtime.sampling.feeds import BodyInputs
from fewstep.runtime.sampling.loading import choose_body
from fewstep.runtime.sampling.request import PlanSettings

Planned = tuple[Bundle, str, AnyPlan]  # the bundle, the body and the plan to bake

SUFFIX = ".onnx"
MESSAGE_LIMIT = 2**31 - 2**24  # bytes of weights in one ONNX file, with room for the graph
# Bytes of weights inside loops. More are stored in a separate file, since onnxruntime would hold them twice.
SEPARATE_FILE_ABOVE = 2**23


@dataclass(frozen=True)
class BakeOptions(BundleOptions):
    """Write a whole run as one ONNX file: noise and conditions in, samples out.

    bundle: The bundle to bake; it stays unchanged.
    plan: SOLVER:STEPS, scheduler:STEPS, fitted:STEPS for a plan of `fewstep fit`, or the path of a plan's JSON file.
    output: The file to write. Weights above 256 MB, or 8 MB of float weights, go to a file next to it.
    precision: float32 or int8. Default: the precision of --body, or float32.
    body: Name of a body, such as int8-tensorrt. float16 and int8-weights are made from the float32 body; int8-weights
        stores weights as int8 and computes in float32, for engines without int8 convolutions, such as WebGPU's.
        float32-cuda, float16-cuda and bfloat16-cuda have the operations of ONNX Runtime's CUDA provider, and run there
        only.
        Default: the body of that precision that onnxruntime runs best here.
    guidance: Weight of classifier-free guidance, pag:SCALE for perturbed attention, or steer:WEIGHT for a gradient.
        Join several with a plus, like 2+pag:3. cfg++:WEIGHT is CFG++. 1 runs only the conditional branch.
        Default: 1; on the command line, as calibrated.
    clip: Clip each prediction of the clean sample to [-CLIP, CLIP]. Default: as calibrated, for the calibrated plan.
    strength: Share of the plan's steps to run from an image, above 0 and at most 1. The image becomes an input.
    adapter: FILE.safetensors or FILE.safetensors:STRENGTH, a LoRA for a bundle with slots. All LoRAs are written to one
        .onnx_adapter file next to the output. Each run of onnxruntime may use it or not.
    hold: Keep a known part of the sample, given as the inputs `held` and `held_mask`, wherever the mask is 1. noised:
        with noise of each step's level, the same draw at all steps. fresh: with a new draw at each step. clean: without
        noise.
    batch: Number of samples per call. Default: any number.
    latents: For a bundle with a text encoder or an autoencoder: leave both out of the file, which then reads the
        denoiser's own conditions and returns latents.
    unroll: Write out every step, for inference engines without Loop.
    parts: Write a folder with the part before the steps, one step, the part after them and run.json, for a program that
        runs the steps itself, such as a page with WebGPU. The batch is then fixed, by default 1.
    one_file: Keep all weights in the file, up to 2 GB. A float network then takes about 70 % more memory.
    around: A program to embed the run in: NAME:ARGUMENTS, such as backbone:FILE.onnx, or FILE.py:FUNCTION, a function
        that takes the run and returns another.
    """

    plan: TextReference
    output: Path = field(metadata={"short": "-o"})
    precision: str | None = None
    body: str | None = None
    guidance: float | Guidance | None = None
    clip: float | None = None
    strength: float | None = None
    adapter: tuple[str, ...] = field(default=(), metadata={"whole": True})
    hold: HeldAs = "none"
    batch: int | None = None
    latents: bool = False
    unroll: bool = False
    parts: bool = False
    one_file: bool = False
    around: tuple[str, ...] = field(default=(), metadata={"whole": True})


def bake(
    options: BakeOptions, planned: Planned | None = None, progress: Progress = SILENT
) -> tuple[Baked, tuple[Path, ...]]:
    """Write the file, and run it once for its test vector, for at most two minutes. Return the description that is also
    stored in its metadata, and the files written."""
    bundle, body, plan = planned = planned or resolve_run(options)
    run, baked = assemble_run(options, planned)
    form = body_form(bundle.manifest, options.body or body).form
    graph = dequantize_before_loops(run.graph) if form == INT8_WEIGHTS else run.graph
    adapters = (write_onnx_adapter(bundle, options.adapter, options.output),) if options.adapter else ()
    shape = plan.shape or bundle.manifest.x_shape
    sizes = {size: 1 for port in run.inputs for size in port.shape if isinstance(size, str)}
    sizes |= {BATCH: options.batch or 1, **default_sizes(shape, bundle.manifest.sizes), **run.sizes}
    baked, files = _write(graph, options, baked, sizes, progress)
    return baked, (*files, *adapters)


def assemble_run(options: BakeOptions, planned: Planned | None = None) -> tuple[BakedRun, Baked]:
    """Return the run as a graph, and its description. Nothing is written."""
    bundle, body, plan = planned or resolve_run(options)
    _check(options, bundle, bundle.body(body), plan)
    around = [resolve_call("around", text, 1) for text in options.around]
    if options.output.resolve() in (file.resolve() for each in around for file in each.files):
        raise UserError(f"{options.output} is both an input and the output", "give the output another name")
    run = assemble(
        bundle.manifest, plan, _parts(bundle, body, plan, options), options.batch, options.unroll, options.hold
    )
    for each in around:
        run = each.function(run, *each.arguments)
        if not isinstance(run, BakedRun):
            raise UserError(f"--around {each.text} returned {type(run).__name__}", "let it return a BakedRun")
    baked = describe_run(bundle.manifest, bundle.body(body), plan, run.inputs, run.output, run.draws, run.carried)
    named = body_form(bundle.manifest, options.body or body)
    precision = precision_in(named.form, baked.precision)
    return run, msgspec.structs.replace(baked, precision=precision, form=lossy_form(named), around=bool(options.around))


def select_body(options: BakeOptions, bundle: Bundle) -> str:
    """Return the name of the body to bake. Raises UserError if the bundle has none of the precision."""
    if options.body is None and options.precision in ("float16", "bfloat16"):
        fix = "choose float32 or int8, or bake float16 with --body float16"
        raise UserError(f"bake has no precision {options.precision}", fix)
    return options.body or choose_body(bundle, options.precision or "float32", OnnxRuntime())


def resolve_run(options: BakeOptions) -> Planned:
    """Return the bundle, body and plan to bake. Raises UserError for an output or a body that cannot be baked."""
    _check_output(options)
    bundle = options.open()
    chosen = select_body(options, bundle)
    name, form = body_form(bundle.manifest, chosen)
    body = bundle.body(name)
    if name not in common_bodies(bundle.manifest):
        fix = f"fewstep calibrate {bundle.path}"
        raise UserError(f"not every network of {bundle.path} has the body {name!r}", fix)
    precision = precision_in(form, body.precision)
    if options.precision not in (None, precision):
        fix = f"omit precision, or give {precision} (--precision on the command line)"
        raise UserError(f"body {chosen!r} is {precision}, not {options.precision}", fix)
    settings: PlanSettings = {"shaping": clip_to(options.clip), "strength": options.strength}
    reference: PlanReference = options.plan
    of_run = bundle
    if isinstance(reference, FileReference):
        reference = read_plan(bundle.check_path(reference.path))
        if reference.shape:  # a plan of tokens is for one size
            of_run = replace(bundle, manifest=apply_sizes(bundle.manifest, sizes_of(reference.shape, bundle.manifest)))
    planned = plan_for(of_run, body, reference, options.guidance, settings)
    return bundle, name, regroup(planned, edges_of(bundle.manifest, name))


def _write(
    graph: Graph, options: BakeOptions, baked: Baked, sizes: Mapping[str, int], progress: Progress
) -> tuple[Baked, tuple[Path, ...]]:
    """Write the files. Return the description with the test vector and the checksum, and the files' paths.

    The old graph and all its weights stay until the new graph is in place.
    """
    folder = options.output.parent
    try:
        with TemporaryDirectory(dir=folder, prefix=".fewstep-bake-") as scratch:
            written = io.save(
                graph, Path(scratch) / options.output.name, _limit(graph, options), metadata=encode_metadata(baked)
            )
            progress("test vector", 0, 1)
            baked = seal(written, baked, sizes)
            progress("test vector", 1, 1)
            former = _weight_files(options.output)
            check_interrupted()
            for file in reversed(written):  # the graph last, since it names the others
                os.replace(file, folder / file.name)
        for name in former - {file.name for file in written}:
            with suppress(OSError):  # on Windows another program may have it open
                (folder / name).unlink()
    except OSError as error:
        raise UserError(
            f"{options.output} cannot be written ({error.strerror or error})",
            "check its folder, the permissions and the space left, or give another path",
        ) from None
    return baked, tuple(folder / file.name for file in written)


def _weight_files(output: Path) -> frozenset[str]:
    """Return the names of weight files of an earlier bake with this output."""
    ours = re.compile(rf"{re.escape(output.stem)}-[0-9a-f]{{12}}{re.escape(output.suffix)}\.data")
    try:
        return frozenset(name for name in external_data_files(output) if ours.fullmatch(name))
    except (OSError, ValueError):  # no such file, or not an ONNX file
        return frozenset()


def _limit(graph: Graph, options: BakeOptions) -> int:
    """Return the limit of weight bytes above which weights go to a separate file."""
    in_loops = weights.weight_bytes(graph) - sum(array.nbytes for array in graph.constants.values())
    if options.one_file:
        return MESSAGE_LIMIT
    return 0 if in_loops > SEPARATE_FILE_ABOVE else io.EXTERNAL_ABOVE


def _check_output(options: BakeOptions) -> None:
    """Raise UserError for an output of the wrong kind, or in a bundle."""
    if not options.parts and options.output.suffix != SUFFIX:
        raise UserError(f"output {options.output} is not an ONNX file", f"give a name that ends in {SUFFIX}")
    if options.parts and (options.output.suffix == SUFFIX or (options.output / MANIFEST).exists()):
        raise UserError(f"output {options.output} is not a folder for parts", "give the path of a new folder")
    if options.parts and options.adapter:
        raise UserError("parts of a run cannot have an adapter", "bake without --adapter, or without --parts")
    refuse_in_bundle(options.output)


def _check(options: BakeOptions, bundle: Bundle, body: Body, plan: AnyPlan) -> None:
    """Raise UserError for a run that cannot be baked."""
    if options.batch is not None and options.batch < 1:
        raise UserError(f"batch {options.batch} is not a number of samples", "give 1 or more")
    execution_of(bundle.manifest.space).check_network(plan, BodyInputs.from_body(bundle, body).has_time)
    if options.parts and features_of(plan) is not None:
        raise UserError(f"plan {plan.name!r} has light steps, so no one step repeats", "bake one file, without --parts")
    for step in plan.steps:
        check_shaping(getattr(step, "shaping", None), free_x_shape(bundle.manifest))
    check_branches(bundle.manifest, plan)


def _parts(bundle: Bundle, name: str, plan: AnyPlan, options: BakeOptions) -> Parts:
    manifest = bundle.manifest
    form = body_form(manifest, options.body or name).form

    def open_graph(entry: GraphEntry) -> Graph:
        return load_stored(bundle, entry)

    each = {network: bundle.select_network(network) for network in dict.fromkeys(step.network for step in plan.steps)}
    bodies = {network: part.body(name) for network, part in each.items()}
    entries = [(network, entry) for network, body in bodies.items() for entry in body.graphs]
    first = {network: [name for name, _ in entries].index(network) for network in each}

    def network_of(step: AnyStep) -> int:
        return first[step.network] + bodies[step.network].graph_index(step.group)

    def setup_graphs(facts: Manifest) -> dict[str, Graph]:
        graphs = {"conditioner": facts.conditioner, "prologue": facts.prologue}
        return {key: open_graph(entry) for key, entry in graphs.items() if entry is not None}

    has_text = manifest.text is not None and not options.latents
    has_image = manifest.autoencoder is not None and not options.latents
    return Parts(
        networks=[
            BakedNetwork(f"network_{number}", convert_network(open_graph(entry), form, entry), entry)
            for number, (_, entry) in enumerate(entries)
        ],
        network_of=network_of,
        setup={network: setup_graphs(part.manifest) for network, part in each.items()},
        text=open_graph(manifest.text.graph) if has_text and manifest.text is not None else None,
        decoder=open_graph(manifest.autoencoder.decoder) if has_image and manifest.autoencoder is not None else None,
        nulls={each.name: bundle.null(each) for each in manifest.conditions if each.null_file is not None},
    )
