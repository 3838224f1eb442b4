"""Convert a checkpoint in one file, with the names of the original code, to the folder of a pipeline.

diffusers' `from_single_file` converts each component that the file has. The configs come from a folder of the same
pipeline, and so do the weights of components that the file lacks.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fewstep.export.sources.model_files import CONFIG, Weights
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.files.gguf_file import GGUF, read_gguf
from fewstep.pipelines.files.scaled_weights import find_scaled_weights
from fewstep.pipelines.files.weight_entries import DEQUANTIZE, FLOATS, read_entries
from fewstep.pipelines.recording.quiet import silence_libraries
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.checks import import_package
from fewstep.runtime.lora.file import COPY_AGAIN, first_few
from fewstep.runtime.lora.keys import group_keys

LOG = logging.getLogger("fewstep")
NOT_CONFIGS = (".safetensors", ".bin", ".onnx", ".onnx_data", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".gguf")
# What stands before the names of a network's weights in a file of several networks.
WRAPPERS = ("model.", "model_ema.", "first_stage_model.", "cond_stage_model.", "conditioner.", "text_encoders.", "vae.")
LDM = "model.diffusion_model."  # stands before the names of a denoiser; diffusers reads those of a UNet with it
PREFIXES = (LDM, "diffusion_model.")
BARE = "input_blocks."  # begins the name of a layer of a UNet without a prefix
CLIP = "text_encoders.clip_l."  # begins the names of the first text encoder's weights in ComfyUI's files
PROJECTION = f"{CLIP}transformer.text_projection.weight"
DENOISERS = ("unet", "transformer")  # names of the component whose weights the file has
GIVE_CONFIG = "give --config FOLDER, a folder of the pipeline that the file was trained for"


@dataclass(frozen=True)
class ConvertedFile:
    """The folder of a pipeline with the weights of a file. `without` are its components without weights."""

    folder: Path
    without: tuple[str, ...]


def convert_file(file: Path, config: Path) -> ConvertedFile:
    """Write the weights of a file to a temporary folder, which exists until the process ends, with the configs of a
    pipeline's folder. The same files are converted once.

    Raises UserError if the file lacks the denoiser's weights, has weights that it does not read, or changes while it is
    read.
    """
    return _convert(file, config, _identify(file, config))


def _identify(file: Path, config: Path) -> tuple[tuple[object, ...], ...]:
    """Return what changes if a file of weights, or a file of a pipeline's folder, is replaced or written."""
    stats = ((path, path.stat()) for path in (file, *_files_of(config)))
    return tuple(
        (path, each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for path, each in stats
    )


@cache
def _convert(file: Path, config: Path, identity: tuple[tuple[object, ...], ...]) -> ConvertedFile:
    folder = Folder(config)
    tensors = read_gguf(file) if file.suffix.lower() == GGUF else _read_safetensors(file)
    home = Path(tempfile.mkdtemp(dir=_temporary_folder().name)) / file.stem
    _copy_configs(config, home)
    networks = _networks(folder)
    denoiser = next((name for name in DENOISERS if name in networks), None)
    if denoiser is None:
        raise UserError(f"{config} has none of {', '.join(DENOISERS)}", GIVE_CONFIG)
    _refuse_two_of_a_class(file, folder, networks)
    without, read = [], set[str]()
    for component, kind in networks.items():
        own = _name_denoiser(file, tensors) if component == denoiser else tensors
        with _Operands() as operands:
            network = _convert_component(own, folder, component, kind, must_exist=component == denoiser, file=file)
        if network is not None:
            with silence_libraries():
                network.save_pretrained(home / component)
            used = operands.addresses | {_address(tensor) for tensor in network.state_dict().values()}
            read |= {name for name, tensor in tensors.items() if _address(tensor) in used}
            is_clip = any(name.startswith(CLIP) and _address(tensor) in used for name, tensor in tensors.items())
            if is_clip and PROJECTION in tensors and _is_implied(tensors[PROJECTION], network):
                read.add(PROJECTION)
        elif not _link_weights(config / component, home / component):
            without.append(component)
    if _identify(file, config) != identity:
        what = f"{file.name} or a file of {config} changed while it was read"
        raise UserError(what, "run the command again when no other program writes there")
    _report_unread(file, config, tensors, read)
    if without:
        missing = ", ".join(f"{name} ({folder.class_of(name)})" for name in without)
        LOG.warning("%s and %s have no weights of %s: the bundle is without", file.name, config, missing)
    return ConvertedFile(home, tuple(without))


def _name_denoiser(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the denoiser's tensors as diffusers reads them: without a prefix, except for a UNet's. Without a prefix in
    the file, these are all of its tensors. Raises UserError for one that is there with a prefix and without."""
    prefix = next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in tensors)), "")
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if prefix and (twice := [name for name in own if name in tensors]):
        raise UserError(f"{file.name} has {first_few(twice)} with and without {prefix!r}", COPY_AGAIN)
    is_unet = any(name.startswith(BARE) for name in own)
    return {f"{LDM}{name}": tensor for name, tensor in own.items()} if is_unet else own


@cache
def _temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="fewstep-")


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file. Weights in float8 and int8 are multiplied by their scales, and rotated back."""
    from safetensors.torch import load_file

    entries = read_entries(Weights((file,)))
    scaled = find_scaled_weights(entries)
    for name, entry in entries.items():  # diffusers would convert the integers to float
        if name.endswith(".weight") and entry.dtype not in FLOATS and name not in scaled.scales:
            raise UserError(f"{file.name} stores {name!r} as {entry.dtype}, which is not a float type", DEQUANTIZE)
    tensors = {name: tensor for name, tensor in load_file(file).items() if name not in scaled.others}
    for name in scaled.scales:
        tensors[name] = scaled.restore(name, tensors[name])
    return tensors


def _copy_configs(config: Path, home: Path) -> None:
    """Copy the files of a folder and of its components, without weights and their indexes."""
    for path in _files_of(config):
        is_index = path.name.endswith(".json") and ".safetensors.index" in path.name
        if path.suffix not in NOT_CONFIGS and not is_index:
            copy = home / path.relative_to(config)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _files_of(config: Path) -> list[Path]:
    """Return the files of a folder and of its components."""
    return sorted(path for path in (*config.glob("*"), *config.glob("*/*")) if path.is_file())


def _networks(folder: Folder) -> dict[str, Any]:
    """Return the classes of a pipeline's components that have weights, the denoiser's first."""
    import diffusers
    import transformers

    libraries = {"diffusers": diffusers, "transformers": transformers}
    networks = {}
    for name in sorted(folder.index, key=lambda name: name not in DENOISERS):
        named = folder.index[name]
        if not folder.has(name) or not isinstance(named, list) or not (folder.path / name / CONFIG).is_file():
            continue
        kind = getattr(libraries.get(str(named[0])), folder.class_of(name), None)
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            networks[name] = kind
    return networks


def _refuse_two_of_a_class(file: Path, folder: Folder, networks: Mapping[str, Any]) -> None:
    """Raise UserError if a pipeline has two networks of the denoiser's class: the file does not say which one it is."""
    for denoiser in (name for name in DENOISERS if name in networks):
        kind = networks[denoiser]
        if others := [name for name, other in networks.items() if name != denoiser and other is kind]:
            what = f"{folder.path} has {denoiser} and {others[0]} of one class, and {file.name} does not say which"
            fix = f"write each with {kind.__name__}.from_single_file(FILE).save_pretrained(FOLDER/{denoiser})"
            raise UserError(f"{what} one it is", fix)


def _convert_component(
    tensors: Mapping[str, Tensor], folder: Folder, name: str, kind: Any, must_exist: bool, file: Path
) -> "Any | None":
    """Return a component with the weights of the file, or None if the file has none of its weights."""
    import_package(
        "accelerate", f"{file.name} is converted by diffusers with accelerate, which", "pip install accelerate"
    )
    from diffusers.loaders import single_file_model
    from diffusers.loaders import single_file_utils as utils

    state, where = dict(tensors), {"config": str(folder.path), "subfolder": name, "local_files_only": True}
    try:
        with silence_libraries():
            if single_file_model._get_single_file_loadable_mapping_class(kind) is not None:
                with patch.object(single_file_model, "dispatch_model"):  # it fails if weights are missing
                    network = kind.from_single_file(state, low_cpu_mem_usage=True, **where)
            elif utils.is_clip_model_in_single_file(kind, state):
                network = utils.create_diffusers_clip_model_from_ldm(kind, checkpoint=state, **where)
            elif kind.__name__.startswith("T5") and utils.is_t5_in_single_file(state):
                network = utils.create_diffusers_t5_model_from_checkpoint(kind, checkpoint=state, **where)
            else:
                network = None
    except (LookupError, AttributeError, utils.SingleFileComponentError) as error:  # keys that the file lacks
        if must_exist:
            raise _other_names(file, kind, tensors, error) from error
        return None
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        reason = " ".join(str(error).split()).partition(". If you")[0][:200]  # then diffusers advises its caller
        if must_exist and reason.startswith("invalid literal"):  # a name where it reads the number of a block
            raise _other_names(file, kind, tensors) from error
        what = f"{file.name} does not fit the {kind.__name__} in {folder.path / name}: {reason}"
        raise UserError(what, GIVE_CONFIG) from error
    lacking = [] if network is None else _lacking(network)
    if network is None or len(lacking) == sum(1 for _ in network.parameters()):
        if must_exist:
            raise _other_names(file, kind, tensors)
        return None
    if lacking:
        what = f"{file.name} lacks {len(lacking)} weights of {name}, a {kind.__name__}: {first_few(lacking)}"
        raise UserError(what, GIVE_CONFIG)
    return network


def _is_implied(projection: Tensor, encoder: nn.Module) -> bool:
    """Return whether a text encoder computes the same without the file's projection: it has none, as that of FLUX, or
    it is the identity, which diffusers sets for Stable Diffusion 3."""
    has_projection = any("text_projection" in name.split(".") for name, _ in encoder.named_parameters())
    is_identity = projection.ndim == 2 and torch.equal(projection.float(), torch.eye(*projection.shape))
    return not has_projection or is_identity


def _lacking(network: nn.Module) -> list[str]:
    """Return the names of parameters without a value, after those that a network of transformers shares are shared, as
    a T5 its two embeddings: a file has one of them."""
    tie: Any = getattr(network, "tie_weights", None)
    if tie is not None and any(weight.is_meta for weight in network.parameters()):
        with silence_libraries():
            tie()
    return [name for name, weight in network.named_parameters() if weight.is_meta]


def _other_names(file: Path, kind: Any, tensors: Mapping[str, Tensor], error: Exception | None = None) -> UserError:
    """Return the error for a file whose names are not those of the denoiser. `error` may have a name that it lacks."""
    import diffusers

    if tensors and not group_keys(tensors)[1]:
        return UserError(f"{file.name} is a LoRA, which changes a network", f"export its network with --lora {file}")
    lacks = f", which lacks {error}" if isinstance(error, KeyError) else ""
    what = f"diffusers {diffusers.__version__} finds no {kind.__name__} in {file.name}{lacks}"
    return UserError(f"{what}: it has {first_few(tensors) if tensors else 'no tensors'}", GIVE_CONFIG)


def _link_weights(source: Path, home: Path) -> bool:
    """Link the files of weights of a component's folder into another one. Returns whether there are any."""
    files = [path for path in sorted(source.glob("*.safetensors*")) if path.is_file()]
    for path in files:
        (home / path.name).symlink_to(path.resolve())
    return bool(files)


class _Operands(TorchFunctionMode):
    """Collects the memory of all tensors that torch functions read while this is active."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = pytree.tree_leaves((args, kwargs or {}))
        if getattr(func, "__name__", "") != "__get__":  # attributes, such as the shape
            self.addresses |= {_address(leaf) for leaf in leaves if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))


def _address(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunction():
        return 0 if tensor.is_meta else tensor.data_ptr()


def _report_unread(file: Path, config: Path, tensors: Mapping[str, Tensor], read: set[str]) -> None:
    """Report the tensors of a file that no component reads. Raises UserError for a weight next to those of the
    denoiser, and for a part of a layer whose weight is read, such as a bias or a scale of quantized weights."""
    from diffusers.loaders.single_file_utils import SD_2_TEXT_ENCODER_KEYS_TO_IGNORE as AFTER_THE_LAST_LAYER

    homes = set(_homes(read))
    unread = [name for name in tensors if name not in read]
    if parts := [name for name in unread if _is_part(name, read) and bool((tensors[name] != 0).any())]:
        what = f"{file.name} has {len(parts)} tensors of layers that no network of {config} reads: {first_few(parts)}"
        raise UserError(what, f"{GIVE_CONFIG}; if they are scales, {DEQUANTIZE}")
    floats = [name for name in unread if tensors[name].is_floating_point() and tensors[name].ndim > 1]
    weights = [name for name in floats if next(_homes([name])) in homes and name not in AFTER_THE_LAST_LAYER]
    if weights:
        what = f"{file.name} has {len(weights)} weights that no network of {config} reads: {first_few(weights)}"
        raise UserError(what, GIVE_CONFIG)
    if unread:
        LOG.warning("%s: no component reads %d of its tensors: %s", file.name, len(unread), first_few(unread))


def _is_part(name: str, read: set[str]) -> bool:
    """Return whether a tensor is named as a part of a layer whose weight is read: LAYER.bias, LAYER.weight.absmax."""
    layer = name.rpartition(".")[0]
    return bool(layer) and (layer in read or f"{layer}.weight" in read)


def _homes(names: "set[str] | list[str]") -> Iterator[str]:
    """Yield what stands before a tensor's name: the wrapper of its network in a file of several, or ""."""
    for name in names:
        yield name.partition(".")[0] if name.startswith(WRAPPERS) else ""
