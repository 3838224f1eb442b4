"""Read a diffusers pipeline's folder, with model_index.json, as written by `save_pretrained`, without network access.

The denoiser's class and shape come from its config.json, its schedule and prediction from
scheduler/scheduler_config.json. An adapter in the folder becomes part of the denoiser. Weights are read
only from safetensors, since a pickle runs code. A folder exported by optimum contains model.onnx instead, and needs
neither torch nor diffusers, unless a default of its pipeline's call is a condition (`call_defaults.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from fewstep.export.batches import BATCH_LIMIT
from fewstep.export.sources.model_files import CONFIG, GIVE_PIPELINE, ONNX, Config, hash_files, read_json
from fewstep.export.sources.onnx_file import OnnxSource
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.pipelines.files.folder import CONTROLNET, INDEX, Folder, read_config
from fewstep.pipelines.listed.classes import CLASSES
from fewstep.pipelines.listed.control import ADAPTER, add_control, has_adapter
from fewstep.pipelines.listed.interface import IMAGE, WRITE_IT, Interface
from fewstep.pipelines.listed.pipelines import is_listed, warn_of_pipeline, with_unheld_start
from fewstep.pipelines.listed.students import warn_of_student
from fewstep.plans.argument_checks import check_integer
from fewstep.plans.configs.classes import schedule_from_scheduler_config
from fewstep.plans.configs.pipelines import PIPELINE, PIPELINES
from fewstep.plans.configs.schedules import Described
from fewstep.plans.errors import UserError

DENOISERS = ("unet", "transformer")  # names of a pipeline's denoiser component
TEXT_LENGTH, MOST_TOKENS = "max_sequence_length", 512  # an argument of FLUX.1, and what it takes at most
FLUX = "FluxTransformer2DModel"
QUIET = "transformer_2"  # the second network of a pipeline with a `boundary_ratio`
SCHEDULER_NAME = "scheduler"
SCHEDULER = f"{SCHEDULER_NAME}/scheduler_config.json"
VARIANCE, LEARNED_RANGE = "variance_type", "learned_range"  # a field of DDPM's config
NAME_CLASS = f"name the class of diffusers that samples its weights in {INDEX}, or {WRITE_IT}"
PRIVATE = ("_name_or_path",)  # fields that may contain a path or a user's name


def load_diffusers_folder(
    path: Path, call: Config | None = None, without: Sequence[str] = ()
) -> TorchSource | OnnxSource:
    """Load the denoiser of a pipeline's folder. Raises UserError naming the file that is missing or incomplete.

    call: arguments of the pipeline's call, if it is recorded, or only the length of texts. without: components without
        weights, which the bundle leaves out.
    """
    folder = Folder(path)
    if is_recorded(folder):
        return _record(folder, call or {}, without)
    if folder.has(CONTROLNET):
        what = f"{path}: only the recording of a pipeline joins its {CONTROLNET} with its denoiser"
        raise UserError(what, "export the original folder of a pipeline of diffusers, with its text encoders")
    folder = replace(folder, without=frozenset(without))
    component = _find_denoiser(folder)
    home = path / component
    config = read_config(home)
    if call and is_unknown_class(folder):
        raise UserError(f"{path}: {_without_class(folder)}, whose call could take {min(call)}", NAME_CLASS)
    if call:
        folder = _with_text_length(folder, call, config)
    interface = read_interface(config, folder, home)
    folder.check_class(component)
    _refuse_experts(folder, component)
    is_adapted = has_adapter(folder, config["_class_name"])
    if is_adapted:
        folder.check_class(ADAPTER)
        interface = add_control(interface, folder)
    scheduler = read_recorded_scheduler(folder)
    warn_of_pipeline(folder)
    warn_of_student(folder, scheduler)
    scheduler, interface, (schedule, prediction) = apply_scheduler(scheduler, folder, interface, config)
    name = path.resolve().name
    spec = Spec(name, interface.x_shape, interface.conditions, prediction, schedule, heads=interface.heads)
    read = [home / CONFIG, path / SCHEDULER]
    if (home / ONNX).is_file():
        if is_adapted:
            raise UserError(f"{home / ONNX} does not contain the {ADAPTER}", "export the original pipeline's folder")
        return make_onnx_source(home, spec, interface, scheduler, read)
    from fewstep.pipelines.companions.networks import read_pipeline
    from fewstep.pipelines.files.loading import load_network
    from fewstep.pipelines.listed.network import AdaptedUNet, wrap_network

    network, files = load_network(home)
    module = wrap_network(network, interface)
    if is_adapted:
        adapter, more = load_network(path / ADAPTER)
        module, files = AdaptedUNet(network, adapter, interface), [*files, path / ADAPTER / CONFIG, *more]
    pipeline = read_pipeline(folder, config["_class_name"], spec.x_shape, spec.conditions)
    files = [*files, *(() if pipeline is None else pipeline.files)]
    digest = hash_files([*read, *files])
    return TorchSource(module, spec, name, digest, BATCH_LIMIT, scheduler, pipeline, component=component)


def _find_denoiser(folder: Folder) -> str:
    """Return the component that is the denoiser. Raises UserError if there is none."""
    component = next((name for name in DENOISERS if folder.has(name)), None)
    if component is None:
        raise UserError(f"{folder.path} has none of {', '.join(DENOISERS)}", GIVE_PIPELINE)
    return component


def _with_text_length(folder: Folder, call: Mapping[str, Any], config: Config) -> Folder:
    """Return the folder with the length of texts that a call gives. Raises UserError for any other argument, and if the
    network takes no texts of any length."""
    takes_length, label = config.get("_class_name") == FLUX, folder.pipeline or "this one"
    others = [name for name in call if name != TEXT_LENGTH or not takes_length]
    if others:
        what = f"{folder.path}: --call {others[0]} is for recorded pipelines, and {label} needs no recording"
        fix = f"leave it out: it takes --call {TEXT_LENGTH}=N" if takes_length else "leave --call out"
        if others[0] in ("height", "width"):
            fix += ", and give the sizes of latents as --size height=64:128:8 --size width=64:128:8"
        raise UserError(what, fix)
    return replace(folder, text_length=check_integer(f"--call {TEXT_LENGTH}", call[TEXT_LENGTH], 1, MOST_TOKENS))


def is_recorded(folder: Folder) -> bool:
    """Return True for a pipeline of diffusers that fewstep does not list, or whose network it does not list."""
    names = {form.__name__ for form in CLASSES}
    has_second = folder.has(CONTROLNET)  # which only a recording joins with the denoiser
    if not has_second and is_listed(folder.pipeline) and any(folder.class_of(name) in names for name in DENOISERS):
        return False
    if not folder.pipeline or any(map(folder.is_onnx, DENOISERS)):
        return False
    from fewstep.pipelines.recording.components import is_pipeline  # imports diffusers

    return is_pipeline(folder.pipeline)


def is_unknown_class(folder: Folder) -> bool:
    """Return True for a folder whose pipeline is of a class that diffusers does not have, such as one of user code."""
    if not folder.pipeline or folder.pipeline in PIPELINES or any(map(folder.is_onnx, DENOISERS)):
        return False
    from fewstep.pipelines.recording.components import is_pipeline  # imports diffusers

    return find_spec("diffusers") is not None and not is_pipeline(folder.pipeline)


def _without_class(folder: Folder) -> str:
    import diffusers  # takes seconds, and --help does not need it

    return f"diffusers {diffusers.__version__} has no class {folder.pipeline}"


def _record(folder: Folder, call: Mapping[str, Any], without: Sequence[str]) -> TorchSource:
    """Load the denoiser of a pipeline as its own call uses it."""
    from fewstep.pipelines.source import load_recorded_folder  # imports torch

    scheduler = read_recorded_scheduler(folder)
    warn_of_student(folder, scheduler)
    return load_recorded_folder(folder, scheduler, call, without)


def read_recorded_scheduler(folder: Folder) -> dict[str, Any]:
    """Return the scheduler's config of a pipeline. Raises UserError if the folder has none."""
    scheduler = read_scheduler(folder.path, folder.pipeline)
    if scheduler is None:
        raise _without_scheduler(folder.path)
    return scheduler


def _refuse_experts(folder: Folder, component: str) -> None:
    """Raise UserError for a pipeline with two networks."""
    path = folder.path
    if folder.index.get("boundary_ratio") is not None and folder.has(QUIET):
        fix = f"export {path / QUIET}, and give {path / component} as --expert; docs/export/networks.md has the lambda"
        raise UserError(f"{path} has two networks, each for a part of the steps", fix)


def _without_scheduler(path: Path) -> UserError:
    what = f"{path} has no {SCHEDULER}, which defines the network's schedule and prediction"
    return UserError(what, GIVE_PIPELINE)


def make_onnx_source(
    home: Path, spec: Spec, interface: Interface, scheduler: Config | None, also: list[Path]
) -> OnnxSource:
    """Return the source of a pipeline that `optimum-cli export onnx` exported. The network's arguments are the inputs
    of its file."""
    if IMAGE in interface.arguments:
        what = f"{home / ONNX} takes the image and the noisy sample concatenated in one input, which is not supported"
        raise UserError(what, "export the original pipeline's folder")
    if interface.time_scale != 1:
        raise UserError(
            f"{home / ONNX} reads times in units that differ from its schedule's",
            "export the original pipeline's folder",
        )
    spec = msgspec.structs.replace(spec, x=interface.x, time="timestep", output=f"out_{interface.x}")
    return OnnxSource(home / ONNX, spec, spec.name, hash_files([home / ONNX, *also]), scheduler)


def read_scheduler(path: Path, pipeline: str) -> dict[str, Any] | None:
    """Return the scheduler config in a folder, as a bundle stores it: with the class name of the pipeline that uses it.
    None if the folder has no scheduler. As for diffusers, the class that model_index.json names takes precedence over
    that of the config."""
    file = path / SCHEDULER
    if not file.is_file():
        return None
    kept = {name: value for name, value in read_json(file).items() if name not in PRIVATE}
    if (path / INDEX).is_file() and (listed := Folder(path).class_of_diffusers(SCHEDULER_NAME)) is not None:
        kept["_class_name"] = listed
    if not str(kept.get("_class_name")).startswith("DDPM"):  # other schedulers drop a learned variance, like export
        kept.pop(VARIANCE, None)
    return {**kept, PIPELINE: pipeline} if pipeline else kept


def apply_scheduler(
    scheduler: dict[str, Any], folder: Folder, interface: Interface, config: Config
) -> tuple[dict[str, Any], Interface, Described]:
    """Return a scheduler's config as a bundle stores it, the interface of its network, whose config is `config`, and
    the schedule and prediction."""
    stored = with_unheld_start(scheduler, folder.pipeline, interface)
    return stored, _add_variance(interface, config, stored), _read_schedule(stored)


def _add_variance(interface: Interface, config: Config, scheduler: Config) -> Interface:
    """Return the interface with a second output, a learned variance, if the scheduler reads one and the network returns
    it."""
    is_read = scheduler.get(VARIANCE) == LEARNED_RANGE
    is_returned = config.get("out_channels") == 2 * interface.x_shape[0]
    return replace(interface, heads=2) if is_read and is_returned else interface


def _read_schedule(scheduler: Mapping[str, Any]) -> Described:
    """Return the schedule and the prediction of a scheduler's config, with its pipeline's changes."""
    pipeline = scheduler.get(PIPELINE)
    return schedule_from_scheduler_config(scheduler, pipeline=pipeline if pipeline in PIPELINES else None)


def read_interface(config: Config, folder: Folder, home: Path) -> Interface:
    """Return the interface that the denoiser's config describes."""
    name = str(config.get("_class_name"))
    form = next((form for form in CLASSES if form.__name__ == name), None)
    if form is None:
        names = ", ".join(form.__name__ for form in CLASSES)
        if is_unknown_class(folder):
            what = f"{folder.path}: {_without_class(folder)}, and its denoiser is a {name}"
            raise UserError(f"{what}; without a pipeline fewstep reads {names}", NAME_CLASS)
        what = f"{folder.path}: its denoiser is a {name}; without a pipeline of diffusers fewstep reads {names}"
        raise UserError(what, f"export the folder of such a pipeline, which is recorded, or {WRITE_IT}")
    try:
        return form(config, folder)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{home / CONFIG} is not the config of a {name} ({error})", GIVE_PIPELINE) from error
