"""The folders of diffusers' pipelines that `fewstep export` reads. Loading imports torch."""

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fewstep.export.sources.folder_kinds import FolderKind, ObjectOrigin
from fewstep.export.sources.model_files import CONFIG, FP16, WEIGHTS, index_name, read_json, shard_names
from fewstep.export.spec import Source, with_spec
from fewstep.pipelines.files.folder import INDEX, Folder, is_component
from fewstep.plans.errors import UserError, quote_path

if TYPE_CHECKING:
    from torch import nn

    from fewstep.export.sources.torch_module import TorchSource

DENOISERS = ("transformer_2", "transformer", "unet")  # the usual components, that of the last steps first
TRANSFORMERS_WEIGHTS = "model"  # the stem of the weight files of transformers
CLASS = "_class_name"  # in the configs of diffusers only, also of networks that a pipeline defines
NOT_READ = ("safety_checker",)  # a network that export leaves out


def _is_pipeline(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def _load_pipeline(folder: Path, call: Mapping[str, Any] | None = None) -> Source:
    from fewstep.pipelines.source import load_diffusers_folder

    return load_diffusers_folder(folder, call)


def _load_file(file: Path, config: Path, call: Mapping[str, Any] | None = None) -> Source:
    from fewstep.pipelines.single_file import convert_file
    from fewstep.pipelines.source import load_diffusers_folder

    converted = convert_file(file.absolute(), config.absolute())
    return with_spec(load_diffusers_folder(converted.folder, call, converted.without), str(file), name=file.stem)


def _refuse_network(folder: Path) -> NoReturn:
    """Raise UserError for the folder of one network."""
    name = read_json(folder / CONFIG)[CLASS]
    what = f"{folder} is only a {name}, and the call of its pipeline shows what it is given"
    if (folder.parent / INDEX).is_file():
        raise UserError(what, f"give the folder of the pipeline: {quote_path(folder.parent)}")
    fix = "put it into the folder of its pipeline and give that, or write a function that returns (module, Spec)"
    raise UserError(what, fix)


def _load_object(value: object, origin: ObjectOrigin) -> "TorchSource | None":
    diffusers = sys.modules.get("diffusers")  # imported by a function that returns a pipeline
    if diffusers is None or not isinstance(value, diffusers.DiffusionPipeline):
        return None
    from fewstep.pipelines.source import load_pipeline

    return load_pipeline(value, origin.label, origin.sha256, origin.call)


def _outline_denoisers(folder: Path) -> "dict[str, Callable[[], nn.Module]]":
    """Return the usual denoisers of a pipeline's folder, except those that diffusers does not build. Only a pipeline
    with a boundary has two that share its steps."""
    read = Folder(folder)
    names = [name for name in DENOISERS if read.index.get(name) not in (None, [None, None])]
    if len(names) > 1 and read.index.get("boundary_ratio") is None:
        return {}
    built = [name for name in names if read.class_of_diffusers(name) is not None]
    return {name: partial(_outline, read.home(name)) for name in built if (read.home(name) / CONFIG).is_file()}


def _outline(home: Path) -> "nn.Module":
    from fewstep.pipelines.files.loading import outline_network

    return outline_network(home)


def _weight_files(folder: Path) -> list[str]:
    """Return the weight files of all networks in full precision."""
    return [name for files in _files_of_networks(folder, None) for name in files]


def _half_weight_files(folder: Path) -> list[str]:
    """Return the weight files in half precision of the networks that lack a file in full precision."""
    pairs = zip(_files_of_networks(folder, None), _files_of_networks(folder, FP16), strict=True)
    return [name for full, half in pairs if not _has_files(folder, full) for name in half]


def _files_of_networks(folder: Path, variant: str | None) -> Iterator[list[str]]:
    """Return the names of the weight files of each network that `files.find_weights` will read, whatever other files
    the folder contains."""
    for home, stem in _network_folders(folder).items():
        index = folder / home / index_name(stem, variant)
        middle = "" if variant is None else f".{variant}"
        names = shard_names(index) if index.is_file() else [f"{stem}{middle}.safetensors"]
        yield [f"{home}{name}" for name in names]


def _network_folders(folder: Path) -> dict[str, str]:
    """Return the folders of a pipeline's networks, each with the stem of its weight files."""
    read = Folder(folder)
    homes = {name: read.home(name) for name in read.index if name not in NOT_READ}
    named = {("" if home == folder else f"{name}/"): home / CONFIG for name, home in homes.items()}
    return {
        prefix: WEIGHTS if CLASS in read_json(config) else TRANSFORMERS_WEIGHTS
        for prefix, config in named.items()
        if config.is_file()
    }


def _has_files(folder: Path, files: list[str]) -> bool:
    """Return True if all files of a network are in a folder. After an interrupted download, some shards may be
    missing."""
    return all((folder / name).is_file() for name in files)


PIPELINE = FolderKind(
    _is_pipeline,
    _load_pipeline,
    _weight_files,
    _half_weight_files,
    takes=("call",),
    load_object=_load_object,
    load_file=_load_file,
    outlines=_outline_denoisers,
)
NETWORK = FolderKind(is_component, _refuse_network, lambda _: [])
