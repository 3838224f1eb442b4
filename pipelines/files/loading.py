"""Load a network of a diffusers folder with its weights."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from fewstep.export.companions.tokenizer import import_transformers
from fewstep.export.sources.model_files import CONFIG, GIVE_PIPELINE, Weights, find_weights, read_json
from fewstep.export.sources.remote_code import NO_CODE
from fewstep.export.tracing.weights.mapped_weights import map_tensors
from fewstep.pipelines.files.folder import read_config
from fewstep.pipelines.files.scaled_weights import ScaledWeights, find_scaled_weights
from fewstep.pipelines.files.stored_formats import GIVE_WIDER
from fewstep.pipelines.files.weight_entries import (
    DEQUANTIZE,
    StoredTensor,
    check_entries,
    read_entries,
    unwrap_names,
)
from fewstep.plans.errors import UserError, one_line
from fewstep.runtime.backends.checks import import_package
from fewstep.runtime.machine.memory_pages import drop_pages

HALVES = ("BF16", "F16")  # safetensors' names


def outline_network(home: Path) -> nn.Module:
    """Return the network of a component without memory for its weights, on the device "meta"."""
    network_class = _class_of(home)
    import diffusers

    with _silence_library(diffusers.utils.logging), _report_failure(diffusers, home), torch.device("meta"):
        network: nn.Module = network_class.from_config(network_class.load_config(home, local_files_only=True))
    return network


def load_network(home: Path) -> tuple[nn.Module, list[Path]]:
    """Return the network of a component with its weights, and their files. diffusers also reads the layer names of its
    earlier versions. Weights that are all in bfloat16 or float16 stay so, and are mapped from their files."""
    stored, network_class = find_weights(home), _class_of(home)
    import diffusers

    entries = read_entries(stored)
    if _are_halves(entries) and (mapped := _map_network(network_class, home, stored, entries)) is not None:
        return mapped, list(stored.files)
    stays_float32 = bool(getattr(network_class, "_keep_in_fp32_modules", None))
    with _release_copied_weights():  # the only way in which diffusers loads networks with layers that stay in float32
        network = load_pretrained(diffusers, network_class.__name__, home, stored, low_cpu_mem_usage=stays_float32)
    return network.requires_grad_(False), list(stored.files)


def _are_halves(entries: Mapping[str, StoredTensor]) -> bool:
    """Return whether all floats of a component are of one type of 16 bits."""
    types = {entry.dtype for entry in entries.values()} - {"I64"}  # of counters
    return len(types) == 1 and types <= {*HALVES}


def _map_network(
    network_class: Any, home: Path, stored: Weights, entries: Mapping[str, StoredTensor]
) -> nn.Module | None:
    """Return a network of diffusers whose large weights are mapped from its files. None if the files have other names
    of layers, which diffusers converts."""
    with _parameters_on_meta(), _silence_library(import_module("diffusers").utils.logging):
        network: nn.Module = network_class.from_config(network_class.load_config(home, local_files_only=True))
    state = _map_state(stored)
    if state.keys() != network.state_dict().keys():
        return None
    network.load_state_dict(state, assign=True)
    check_entries(network, home, entries, {"unexpected_keys": (), "missing_keys": ()})
    return network.eval().requires_grad_(False)


def _map_state(stored: Weights) -> dict[str, Tensor]:
    """Return the tensors of a component's files, the large ones mapped."""
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for file in stored.tensors:
        mapped = map_tensors(file, HALVES)
        small = {name: tensor.clone() for name, tensor in load_file(file).items() if name not in mapped}
        state |= small | mapped
    return state


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Inside the block, parameters of new modules have no memory. Buffers do, since files need not have them."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, None if parameter is None else nn.Parameter(parameter.to("meta"), requires_grad=False))

    with patch.object(nn.Module, "register_parameter", register_on_meta):
        yield


def find_component_weights(home: Path, component_class: Any) -> Weights:
    """Return the weights of a component of a class of diffusers or transformers, or of one that a pipeline derives from
    such a class."""
    is_of_transformers = any(base.__module__.startswith("transformers.") for base in component_class.__mro__)
    return find_weights(home, *(("model",) if is_of_transformers else ()))


def load_component(home: Path, component_class: Any, **options: Any) -> nn.Module:
    """Return a component with its weights. Its class may be one of diffusers, one of transformers, or one that is
    defined next to its pipeline. `options` are those of transformers' `from_pretrained`."""
    if component_class.__module__.startswith("transformers."):
        library, stored = import_transformers(home), find_component_weights(home, component_class)
        return load_pretrained(library, component_class.__name__, home, stored, **options).requires_grad_(False)
    if hasattr(import_module("diffusers"), component_class.__name__):
        return load_network(home)[0]
    try:
        network: nn.Module = component_class.from_pretrained(home, local_files_only=True, use_safetensors=True)
    except Exception as error:
        raise UserError(
            f"{home} cannot be loaded as a {component_class.__name__} ({one_line(error)})", "copy the folder again"
        ) from error
    return network.requires_grad_(False)


def _class_of(home: Path) -> Any:
    """Return the class of a component of diffusers. Raises UserError if it is not installed."""
    diffusers = import_package("diffusers", f"{home.parent} needs diffusers, which", "pip install diffusers")
    class_name = str(read_config(home).get("_class_name"))
    if not hasattr(diffusers, class_name):
        raise UserError(f"diffusers {diffusers.__version__} has no {class_name}", "pip install -U diffusers")
    return getattr(diffusers, class_name)


def load_pretrained(library: Any, class_name: str, home: Path, stored: Weights, **options: Any) -> nn.Module:
    """Load a network by its class in a library, diffusers or transformers, without output on stderr. Raises UserError
    if the folder does not fit the class, lacks a weight, or has one that the class does not read."""
    if method := read_json(home / CONFIG).get("quantization_config"):
        kind = method.get("quant_method") if isinstance(method, dict) else None
        fix = GIVE_WIDER if str(kind).startswith("nunchaku") else DEQUANTIZE
        raise UserError(f"{home / CONFIG} says that the weights are quantized ({kind})", fix)
    if library.__name__ == "transformers":
        options |= NO_CODE
    entries = read_entries(stored)
    scaled = find_scaled_weights(entries)
    names = unwrap_names(home, [name for name in entries if name not in scaled.others])
    with _report_failure(library, home), _silence_library(library.utils.logging):
        made = getattr(library, class_name)
        is_renamed = scaled.others or any(name != short for name, short in names.items())
        are_halves = library.__name__ == "transformers" and not scaled.others and _are_halves(entries)
        if is_renamed or are_halves:
            network, info = _load_renamed(library, made, home, stored, names, scaled, are_halves, options)
        else:
            network, info = made.from_pretrained(
                home,
                variant=stored.variant,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    module: nn.Module = network
    restored = {name: replace(entries[name], dtype="F32") for name in scaled.scales}
    check_entries(module, home, {short: restored.get(name, entries[name]) for name, short in names.items()}, info)
    return module


def read_network_config(home: Path, made: Any) -> Any:
    """Return the config from which a class of transformers makes the network of a component. That of an encoder alone
    is a part of the config of its whole model (T5Gemma)."""
    config = made.config_class.from_pretrained(home, local_files_only=True, **NO_CODE)
    if "encoder" not in config.sub_configs:
        return config
    try:
        with torch.device("meta"):
            made._from_config(config)
    except AttributeError:
        return config.encoder
    return config


def _load_renamed(
    library: Any,
    made: Any,
    home: Path,
    stored: Weights,
    names: Mapping[str, str],
    scaled: ScaledWeights,
    are_halves: bool,
    options: Mapping[str, Any],
) -> tuple[nn.Module, Mapping[str, Any]]:
    """Load a network like `from_pretrained`, but with stored weights renamed by `names` and multiplied by their scales.
    Those of a network of transformers that are all in half precision (`are_halves`) stay so, and are mapped. Return the
    network and the library's loading info."""
    from safetensors.torch import load_file

    files = [_map_state(stored)] if are_halves else map(load_file, stored.tensors)
    state = {names[name]: each for tensors in files for name, each in tensors.items() if name in names}
    if are_halves:
        options = {**options, "dtype": next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())}
    for name in scaled.scales:
        state[names[name]] = scaled.restore(name, state[names[name]])
    if library.__name__ == "transformers":
        config = read_network_config(home, made)
        network, info = made.from_pretrained(None, config=config, state_dict=state, output_loading_info=True, **options)
        if are_halves:
            _compute_buffers(network, made, config, state)
        return network, info
    network = made.from_config(made.load_config(home, local_files_only=True)).eval()
    if len(stored.tensors) == 1:  # diffusers wrote no shards before it renamed layers
        network._fix_state_dict_keys_on_load(state)
    missing, unexpected = network.load_state_dict(state, strict=False)
    return network, {"missing_keys": missing, "unexpected_keys": unexpected}


def _compute_buffers(network: nn.Module, made: Any, config: Any, state: Mapping[str, Tensor]) -> None:
    """Give a network of transformers the buffers of float32 that its files do not have. The library rounded them to the
    type of the weights, such as the factor of Gemma's embeddings from 33.94 to 34."""
    with _parameters_on_meta():
        computed = made(config)
    for name, buffer in computed.named_buffers():
        if name not in state and buffer.is_floating_point():
            owner, _, own_name = name.rpartition(".")
            network.get_submodule(owner)._buffers[own_name] = buffer


@contextmanager
def _release_copied_weights() -> Iterator[None]:
    """Release half-precision weights as soon as they are copied. Such files are mapped, and copied to float32 layer by
    layer; otherwise both copies would be in memory at the end. Files stay mapped by what the block leaves until that is
    collected: without the objects of before, which would take a third of a second."""
    load, was_frozen = nn.Module._load_from_state_dict, gc.get_freeze_count() > 0

    def load_and_release(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *more: Any) -> None:
        load(module, state, prefix, *more)
        for name, own in (*module._parameters.items(), *module._buffers.items()):
            stored = state.get(prefix + name)
            if own is not None and stored is not None and stored.dtype != own.dtype:
                drop_pages(stored.data_ptr(), stored.nbytes)

    if not was_frozen:  # by the program
        gc.freeze()
    try:
        with patch.object(nn.Module, "_load_from_state_dict", load_and_release):
            yield
    finally:
        gc.collect()
        if not was_frozen:
            gc.unfreeze()


@contextmanager
def _silence_library(logging: Any) -> Iterator[None]:
    """Suppress the library's messages on stderr. Its loading info contains them too."""
    level, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bar:
            logging.enable_progress_bar()


@contextmanager
def _report_failure(library: Any, home: Path) -> Iterator[None]:
    """Raise UserError for any error of a library that loads or builds the network of a folder."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        what = f"{library.__name__} {library.__version__} cannot load {home}: {one_line(error)}"
        raise UserError(what, GIVE_PIPELINE) from error
