"""Build the pipeline of a folder from its config files only: its networks are stand-ins, and no weights are loaded."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from fewstep.export.sources.model_files import GIVE_PIPELINE
from fewstep.export.sources.remote_code import NO_CODE, refuse_remote_code, stay_local
from fewstep.pipelines.files.folder import INDEX, Folder
from fewstep.pipelines.files.loading import find_component_weights, read_network_config
from fewstep.pipelines.files.weight_entries import refuse_damaged
from fewstep.pipelines.recording.form import XForm
from fewstep.pipelines.recording.packing import Packing
from fewstep.pipelines.recording.stand_ins import (
    OutputShapes,
    build_on_meta,
    build_small,
    is_small,
    recording_error,
    respond_randomly,
)
from fewstep.plans.errors import UserError, one_line

DENOISER_MODULES = ("diffusers.models.transformers.", "diffusers.models.unets.")
SECOND_MODULES = ("diffusers.models.controlnets.", "diffusers.models.adapter")  # networks that run before the denoiser
OWN_DENOISERS = ("unet", "transformer")  # names of networks that pipelines define themselves, as AudioLDM 2 does
NOT_DENOISERS = ("MotionAdapter",)  # defined in a U-Net's module, and never called
PRIOR = "PriorTransformer"  # makes a condition before the loop, in a pipeline that also has a U-Net
LEFT_OUT = ("safety_checker",)  # judges finished images only


@dataclass(frozen=True)
class BuiltPipeline:
    """A pipeline whose networks are stand-ins. `denoisers` are its networks that may be called in the loop, by name,
    with the shapes of their outputs.

    form: how the networks receive x if it is not one tensor with the scheduler's shape of x; otherwise None.
    converts: the pipeline adds a multiple of x to the networks' outputs. Recordings are rewritten without it.
    packing: how the pipeline packs latents into the tokens that its scheduler steps, or None. Recordings are rewritten
        so that x is the latents.
    settings: what its folder has besides components, such as the names of labels.
    seconds: those of `denoisers` that run before another one, which takes their outputs, such as a ControlNet.
    """

    pipeline: Any
    denoisers: dict[str, OutputShapes]
    form: XForm | None = None
    converts: bool = False
    packing: Packing | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return type(self.pipeline).__name__

    def with_layout_of(self, other: "BuiltPipeline") -> "BuiltPipeline":
        """Return it with the form and the packing that were found for another one of its class, and what it adds."""
        return replace(self, form=other.form, converts=other.converts, packing=other.packing)

    def at(self, x_shape: Sequence[int]) -> "BuiltPipeline":
        """Return it for x of another shape, without a form."""
        return replace(self, form=None, packing=None if self.packing is None else self.packing.at(x_shape))


LoadNetwork = Callable[[Path, Any], nn.Module | None]


@stay_local()
def build_pipeline(
    folder: Folder, seed: int = 0, load: LoadNetwork | None = None, without: Sequence[str] | None = None
) -> BuiltPipeline:
    """Build the pipeline of a folder. The seed determines what its encoders return. Raises UserError for code from the
    folder, for missing and damaged files, and for components that the pipeline replaces by others when it is built.

    load: called with the folder and the class of each network that is not a denoiser. It returns the network with its
        weights, or None to use a stand-in with random weights.
    without: the only networks that may lack their weights. None if all may.
    """
    import diffusers

    made = getattr(diffusers, folder.pipeline, None)
    if not is_pipeline(folder.pipeline):
        what = f"{folder.path}: diffusers {diffusers.__version__} has no pipeline {folder.pipeline or 'without a name'}"
        fix = "pip install -U diffusers, or return the pipeline from a function: code from a folder is never run"
        raise UserError(what, fix)
    entries = {name: entry for name, entry in folder.index.items() if not name.startswith("_")}
    settings = {name: entry for name, entry in entries.items() if not _is_component(entry)}  # such as boundary_ratio
    built, denoisers = dict[str, Any](settings), dict[str, OutputShapes]()
    for name, entry in entries.items():
        if name in settings:
            continue
        if name in LEFT_OUT or not folder.has(name):
            built[name] = None
        else:
            built[name] = _build_component(folder, name, tuple(entry), denoisers, seed, load)
            if without is not None and isinstance(built[name], nn.Module) and name not in without:
                refuse_damaged(find_component_weights(folder.home(name), type(built[name])))
    pipeline = construct_pipeline(made, built, str(folder.path))
    return replace(finish_pipeline(pipeline, built, denoisers, str(folder.path)), settings=settings)


def finish_pipeline(
    pipeline: Any, built: dict[str, Any], denoisers: dict[str, OutputShapes], label: str
) -> BuiltPipeline:
    """Return a pipeline of stand-ins. Raises UserError if the pipeline replaced a denoiser by another network when it
    was built."""
    for name in denoisers:
        if getattr(pipeline, name, None) is not built[name]:
            raise recording_error(
                f"{label}: {type(pipeline).__name__} does not call its network {name}, but one that it makes from it "
                "and other components"
            )
    pipeline.set_progress_bar_config(disable=True)
    seconds = frozenset(name for name in denoisers if type(built[name]).__module__.startswith(SECOND_MODULES))
    return BuiltPipeline(pipeline, denoisers, seconds=seconds)


def is_pipeline(name: str) -> bool:
    """Return True if diffusers has a pipeline of this name."""
    import diffusers

    made = getattr(diffusers, name, None)
    return inspect.isclass(made) and issubclass(made, diffusers.DiffusionPipeline)


def construct_pipeline(made: Any, built: dict[str, Any], label: str) -> Any:
    """Return an instance of the pipeline class `made`, built from those components that its constructor takes. Required
    components that are missing from `built` are None."""
    accepted = inspect.signature(made.__init__).parameters
    given = {name: value for name, value in built.items() if name in accepted}
    absent = {
        name: None
        for name, parameter in accepted.items()
        if name not in ("self", *given) and parameter.default is inspect.Parameter.empty
    }
    try:
        return made(**given, **absent)
    except Exception as error:
        raise UserError(f"{label}: {made.__name__} cannot be built ({one_line(error)})", GIVE_PIPELINE) from error


def _is_component(entry: Any) -> bool:
    """Return True if an entry of model_index.json describes a component: [library, class], or [null, null] if the
    component is absent. Other entries are settings; their values may be lists of numbers."""
    return isinstance(entry, list) and len(entry) == 2 and all(item is None or isinstance(item, str) for item in entry)


def _build_component(
    folder: Folder,
    name: str,
    entry: tuple[str, str],
    denoisers: dict[str, OutputShapes],
    seed: int,
    load: LoadNetwork | None,
) -> Any:
    """Build a component: a network as a stand-in, anything else, such as a scheduler or a tokenizer, from its files."""
    library, class_name = entry[0], folder.class_of(name)
    made, home = _find_class(folder, name, library, class_name), folder.home(name)
    if not home.is_dir():
        raise UserError(f"{folder.path} has no folder {name}, which its {INDEX} names", "copy the folder again")
    refuse_remote_code(home)
    if not (inspect.isclass(made) and issubclass(made, nn.Module)):
        try:
            return made.from_pretrained(home, local_files_only=True, **(NO_CODE if library == "transformers" else {}))
        except Exception as error:
            raise UserError(f"{home} cannot be read as a {class_name} ({one_line(error)})", GIVE_PIPELINE) from error
    is_denoiser = _is_denoiser(name, made) and not (made.__name__ == PRIOR and folder.has(OWN_DENOISERS[0]))
    if is_denoiser:
        folder.check_class(name)
    loaded = None if load is None or is_denoiser else load(home, made)
    if loaded is not None:
        return loaded.eval().requires_grad_(False)
    try:
        build = _builder(made, home)
        network = build_on_meta(build)
    except Exception as error:
        raise UserError(f"{home} is not the config of a {class_name} ({one_line(error)})", GIVE_PIPELINE) from error
    if is_denoiser:
        denoisers[name] = OutputShapes(name, build)
        return network
    if is_small(network):
        return build_small(build, name, seed)
    return respond_randomly(network, name, seed)


def _is_denoiser(name: str, made: Any) -> bool:
    """Return True for a network that may be called in the loop. Some pipelines define their own."""
    is_own = made.__module__.startswith("diffusers.pipelines.") and name in OWN_DENOISERS
    is_known = made.__module__.startswith((*DENOISER_MODULES, *SECOND_MODULES))
    return (is_own or is_known) and made.__name__ not in NOT_DENOISERS


def _builder(made: Any, home: Any) -> Callable[[], nn.Module]:
    """Return a function that builds a network from its config, with new weights."""
    if hasattr(made, "load_config"):  # diffusers
        return network_builder(made, made.load_config(home, local_files_only=True))
    return network_builder(made, read_network_config(home, made))


def network_builder(made: Any, config: Any) -> Callable[[], nn.Module]:
    """Return a function that builds a network of diffusers or transformers from its config, with new weights."""
    if hasattr(made, "load_config"):  # diffusers, which ignores values that a program gave by position
        given = {name: value for name, value in config.items() if name != "_use_default_values"}
        return partial(made.from_config, given)
    return lambda: made._from_config(config).float()  # a config names the float type of the weights, such as bfloat16


def _find_class(folder: Folder, name: str, library: str, class_name: str) -> Any:
    """Return the class of a component. Classes come from diffusers and transformers only. Some can only be imported
    from the module of their pipeline."""
    import diffusers

    place = library if library in ("diffusers", "transformers") else f"diffusers.pipelines.{library}"
    module = sys.modules[getattr(diffusers, folder.pipeline).__module__]
    try:
        return getattr(module, class_name, None) or getattr(importlib.import_module(place), class_name)
    except (ImportError, AttributeError) as error:
        what = f"{folder.path}: its {name} is a {class_name} of {library}, which diffusers and transformers do not have"
        raise UserError(what, "update diffusers and transformers; code from a folder is never run") from error
