"""A network of a diffusers folder, loaded with its weights."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from fewstep.export.sources.diffusers.files import CONFIG, COPY_AGAIN, GIVE_PIPELINE, Weights, read_json, weights
from fewstep.plans.errors import UserError
from fewstep.runtime.machine.pages import drop_pages


def load_network(home: Path) -> tuple[nn.Module, list[Path]]:
    """The network of a component with its weights, and their files. diffusers also reads how its earlier versions named
    them."""
    class_name, stored = str(read_json(home / CONFIG).get("_class_name")), weights(home)
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise UserError(f"{home.parent} needs diffusers, which is not installed", "pip install diffusers") from error
    if not hasattr(diffusers, class_name):
        raise UserError(f"diffusers {diffusers.__version__} has no {class_name}", "pip install -U diffusers")
    with _releasing():
        network = pretrained(diffusers, class_name, home, stored, low_cpu_mem_usage=False)
    gc.collect()  # else the files that were read stay mapped
    return network.requires_grad_(False), list(stored.files)


def pretrained(library: Any, class_name: str, home: Path, stored: Weights, **options: Any) -> nn.Module:
    """A network by the class of a library, diffusers or transformers, which prints nothing. UserError where the folder
    does not fit the class, or lacks a weight."""
    try:
        with _quiet(library.utils.logging):
            network, info = getattr(library, class_name).from_pretrained(
                home,
                variant=stored.variant,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        what = f"{library.__name__} {library.__version__} cannot load {home}: {reason}"
        raise UserError(what, GIVE_PIPELINE) from error
    if info["missing_keys"]:
        raise UserError(f"the weights in {home} have no {sorted(info['missing_keys'])[0]!r}", COPY_AGAIN)
    module: nn.Module = network
    return module


@contextmanager
def _releasing() -> Iterator[None]:
    """Files of half precision are mapped, and copied to float32 layer by layer. What was copied leaves memory at once:
    else both forms are there in the end."""
    load = nn.Module._load_from_state_dict

    def load_and_release(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *more: Any) -> None:
        load(module, state, prefix, *more)
        for name, own in (*module._parameters.items(), *module._buffers.items()):
            stored = state.get(prefix + name)
            if own is not None and stored is not None and stored.dtype != own.dtype:
                drop_pages(stored.data_ptr(), stored.nbytes)

    with patch.object(nn.Module, "_load_from_state_dict", load_and_release):
        yield


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """The library says on stderr what its info says as well."""
    level, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bar:
            logging.enable_progress_bar()
