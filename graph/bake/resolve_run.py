"""The bundle, the body and the plan of a run to bake."""

from dataclasses import replace

from fewstep.graph.bake.network_form import body_form, precision_in
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.files.commit import refuse_inside_bundle
from fewstep.plans.any_plan import AnyPlan, PlanReference, regroup
from fewstep.plans.errors import UserError, quote_path
from fewstep.plans.file import read_plan
from fewstep.plans.names.plan_reference import FileReference
from fewstep.plans.shaping import clip_to
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.networks import common_bodies, edges_of
from fewstep.runtime.bundle.reading import MANIFEST, Bundle
from fewstep.runtime.kinds.sizes import apply_sizes, sizes_of
from fewstep.runtime.sampling.calibrated_plans import find_defaults
from fewstep.runtime.sampling.execution import plan_for
from fewstep.runtime.sampling.loading import choose_body
from fewstep.runtime.sampling.request import PlanSettings

Planned = tuple[Bundle, str, AnyPlan]  # the bundle, the body and the plan to bake
SUFFIX = ".onnx"


def select_body(options: BakeOptions, bundle: Bundle) -> str:
    """Return the name of the body to bake. Raises UserError if the bundle has none of the precision."""
    if options.body is None and options.precision in ("float16", "bfloat16"):
        fix = "choose float32 or int8, or bake float16 with --body float16"
        raise UserError(f"bake cannot choose {options.precision}", fix)
    return options.body or choose_body(bundle, options.precision, OnnxRuntime())


def refuse_slots_of_several(bundle: Bundle) -> None:
    """Raise UserError if several networks have LoRA slots, whose inputs would have the same names in one file."""
    others = (network.lora_slots for network in bundle.manifest.networks.values())
    if sum(slots is not None for slots in (bundle.manifest.lora_slots, *others)) > 1:
        what = f"{bundle.path} has LoRA slots in several networks, and a baked file can have those of one"
        raise UserError(what, "export with --lora-slots LAYERS@NETWORK for one of them, or merge the files")


def resolve_run(options: BakeOptions) -> Planned:
    """Find the bundle, body and plan that the options of `fewstep bake` name. Raises UserError for an output that
    cannot be written, and for a body that cannot be baked."""
    _check_output(options)
    bundle = options.open()
    refuse_slots_of_several(bundle)
    chosen = select_body(options, bundle)
    name, form = body_form(bundle.manifest, chosen)
    body = bundle.body(name)
    if name not in common_bodies(bundle.manifest):
        fix = f"fewstep calibrate {quote_path(bundle.path)}"
        raise UserError(f"not every network of {bundle.path} has the body {name!r}", fix)
    precision = precision_in(form, body.precision)
    if options.precision not in (None, precision):
        fix = f"omit precision, or give {precision} (--precision on the command line)"
        raise UserError(f"body {chosen!r} is {precision}, not {options.precision}", fix)
    defaults = find_defaults(bundle, body, options.plan)
    shaping, guidance = clip_to(options.clip) or defaults.shaping, options.guidance
    settings: PlanSettings = {"shaping": shaping, "strength": options.start}
    reference: PlanReference = options.plan
    of_run = bundle
    if isinstance(reference, FileReference):
        reference = read_plan(bundle.check_path(reference.path))
        if reference.shape:  # a token plan works for one size only
            of_run = replace(bundle, manifest=apply_sizes(bundle.manifest, sizes_of(reference.shape, bundle.manifest)))
    planned = plan_for(of_run, body, reference, defaults.guidance if guidance is None else guidance, settings)
    return bundle, name, regroup(planned, edges_of(bundle.manifest, name))


def _check_output(options: BakeOptions) -> None:
    """Raise UserError for an output of the wrong kind, or in a bundle."""
    if not options.parts and options.output.suffix != SUFFIX:
        raise UserError(f"output {options.output} is not an ONNX file", f"give a name that ends in {SUFFIX}")
    is_other = options.output.exists() and not options.output.is_dir()
    if options.parts and (options.output.suffix == SUFFIX or is_other or (options.output / MANIFEST).exists()):
        raise UserError(f"output {options.output} is not a folder for parts", "give the path of a new folder")
    if options.parts and options.adapter:
        raise UserError("parts of a run cannot have an adapter", "bake without --adapter, or without --parts")
    refuse_inside_bundle(options.output)
