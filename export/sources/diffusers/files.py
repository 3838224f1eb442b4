"""Read the files of a diffusers folder, configs and weights, without network access and without running code."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from fewstep.graph.files import io
from fewstep.plans.errors import UserError, quote_path
from fewstep.runtime.bundle.reading import MANIFEST, file_sha256

Config = Mapping[str, Any]
CONFIG_LIMIT = 16 * 2**20  # bytes of a JSON file
INDEX = "model_index.json"
CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
ONNX = "model.onnx"
WEIGHTS = "diffusion_pytorch_model"
FP16 = "fp16"  # the variant that hubs offer in addition to full precision
DIFFUSERS = "diffusers"  # the library of a component
FORMER_CLASS = "Transformer2DModel"
PRESENT_CLASSES = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
GIVE_PIPELINE = "give the folder that pipeline.save_pretrained(FOLDER) wrote"
COPY_AGAIN = "copy the folder again"
CONVERT = "write it with save_pretrained(FOLDER, safe_serialization=True)"


@dataclass(frozen=True)
class Folder:
    """A pipeline's folder, with model_index.json and a folder for each component.

    text_length: the number of tokens of a text, if the caller chooses it.
    """

    path: Path
    text_length: int | None = None

    @cached_property
    def index(self) -> Config:
        """The components of the folder and their classes. Raises UserError if this is not a diffusers folder."""
        if not (self.path / INDEX).is_file():
            if (self.path / MANIFEST).is_file():
                fix = f"give its original source, or run it: fewstep run {quote_path(self.path)}"
                raise UserError(f"{self.path} is a bundle, the output of an export", fix)
            fix = f"{GIVE_PIPELINE}, or a checkpoint's of LeRobot (checkpoints/last)"
            raise UserError(f"{self.path} is not a diffusers folder: it has no {INDEX}", fix)
        return read_json(self.path / INDEX)

    @property
    def pipeline(self) -> str:
        """The name of the pipeline's class, or "". (For a class in user code, the config has its module too.)"""
        named = self.index.get("_class_name") or ""
        return str(named[-1] if isinstance(named, list) and named else named)

    def has(self, component: str) -> bool:
        """Return True if the pipeline has such a component: model_index.json lists absent ones as [null, null]."""
        named = self.index.get(component)
        return bool(named) and named != [None, None] and (self.path / component).is_dir()

    def is_onnx(self, component: str) -> bool:
        """Return True for a component that optimum exported."""
        return (self.path / component / ONNX).is_file()

    def class_of(self, component: str) -> str:
        """Return the class name of a component from model_index.json, which stores [library, class]."""
        named = self.index.get(component)
        name = str(named[-1] if isinstance(named, list) and named else named)
        return str(self.config(component).get("_class_name", name)) if name == FORMER_CLASS else name

    def class_of_diffusers(self, component: str) -> str | None:
        """Return the class of diffusers that model_index.json names for a component, or None if it names none, as
        optimum does for its networks."""
        named = self.index.get(component)
        return self.class_of(component) if isinstance(named, list) and named[:1] == [DIFFUSERS] else None

    def check_class(self, component: str) -> None:
        """Raise UserError if the index and the component's config name different classes. diffusers loads that of the
        index."""
        listed, own = self.class_of_diffusers(component), self.config(component).get("_class_name")
        if listed is not None and isinstance(own, str) and listed != own:
            what = f"{self.path / INDEX} says that {component} is a {listed}, and {self.path / component / CONFIG}"
            raise UserError(f"{what} that it is a {own}", "name the same class in both, that of the weights")

    def config(self, component: str) -> Config:
        """Return the fields of a component's config file; empty if there is none."""
        home = self.path / component
        file = next((home / name for name in (CONFIG, TOKENIZER_CONFIG) if (home / name).is_file()), None)
        return {} if file is None else rename_class(read_json(file))

    def token_length(self, component: str, most: int) -> int:
        """Return the maximum length of texts in a tokenizer's config, up to `most`."""
        length = self.config(component).get("model_max_length", most)
        if not isinstance(length, int | float) or isinstance(length, bool) or length < 1:
            raise UserError(f"{self.path / component} has model_max_length {length!r}", "give a number of tokens")
        return int(min(length, most))

    @property
    def pixels_per_latent(self) -> int:
        """The image pixels per latent pixel along each axis."""
        return 2 ** (len(self.config("vae").get("block_out_channels") or (0,) * 4) - 1)


def is_component(path: Path) -> bool:
    """Return True if a folder holds one network and names its class."""
    if (path / INDEX).exists() or not (path / CONFIG).is_file():
        return False
    try:
        return "_class_name" in read_json(path / CONFIG)
    except UserError:
        return False


def read_json(path: Path, fix: str = GIVE_PIPELINE) -> dict[str, Any]:
    """Return the object in a JSON file. Raises UserError naming the file."""
    if not path.is_file():
        raise UserError(f"{path} is missing", fix)
    try:
        content = json.loads(path.read_bytes()[:CONFIG_LIMIT], parse_constant=str)  # -Infinity is not valid JSON
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error})", fix) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object", fix)
    return content


def read_config(home: Path) -> dict[str, Any]:
    """Return the fields of a network's config.json, with its present class name."""
    return rename_class(read_json(home / CONFIG))


def rename_class(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a config. In folders of early versions of diffusers, such as those published for DiT, two
    networks have the class name that they had then."""
    if fields.get("_class_name") != FORMER_CLASS:
        return fields
    return {**fields, "_class_name": PRESENT_CLASSES.get(str(fields.get("norm_type")), FORMER_CLASS)}


@dataclass(frozen=True)
class Weights:
    """The safetensors files of a component, several if they are sharded. `variant` is part of their names."""

    files: tuple[Path, ...]
    variant: str | None = None

    @property
    def tensors(self) -> tuple[Path, ...]:
        """The files without the index."""
        return tuple(file for file in self.files if file.suffix == ".safetensors")

    @property
    def names_in_index(self) -> frozenset[str] | None:
        """The tensor names in the index of sharded weights; None for a single file."""
        index = next((file for file in self.files if file.suffix != ".safetensors"), None)
        return None if index is None else frozenset(read_json(index)["weight_map"])


def find_weights(home: Path, stem: str = WEIGHTS) -> Weights:
    """Return the weights in a component's folder: in full precision if available, otherwise in float16.

    A pickle is refused, since loading one may run any code. If there are shards and a whole file, diffusers reads the
    shards, and transformers the file.
    """
    for variant in (None, FP16):
        middle = "" if variant is None else f".{variant}"
        index, single = home / index_name(stem, variant), home / f"{stem}{middle}.safetensors"
        if index.is_file() and not (stem != WEIGHTS and single.is_file()):
            return Weights((index, *_shard_files(index)), variant)
        if single.is_file():
            return Weights((single,), variant)
    what = f"{home} has no {stem}.safetensors"
    pickled = next((file.name for pattern in PICKLES for file in sorted(home.glob(pattern))), None)
    if pickled is not None:
        raise UserError(f"{what}, and {pickled} is a pickle, which may run any code", CONVERT)
    raise UserError(what, CONVERT)


def float_bytes(files: Iterable[Path], prefixes: tuple[str, ...] = ("",)) -> int:
    """Return the bytes in float32 of the weights in safetensors files whose names have these prefixes. Reads only
    headers."""
    from safetensors import SafetensorError, safe_open

    total = 0
    for file in files:
        if file.suffix != ".safetensors":  # an index of the others
            continue
        try:
            with safe_open(file, "np") as opened:
                names = [name for name in opened.keys() if name.startswith(prefixes)]  # noqa: SIM118 - not a mapping
                total += sum(4 * prod(opened.get_slice(name).get_shape()) for name in names)
        except SafetensorError as error:
            raise UserError(f"{file} is not a safetensors file ({error})", COPY_AGAIN) from error
    return total


def index_name(stem: str, variant: str | None) -> str:
    """Return the name of the index of sharded weights."""
    return f"{stem}.safetensors.index{'' if variant is None else f'.{variant}'}.json"


def shard_names(index: Path) -> list[str]:
    """Return the files that an index of sharded weights names."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index} names no files", COPY_AGAIN)
    return sorted(set(names.values()))


def _shard_files(index: Path) -> list[Path]:
    """Return the files that an index of sharded weights names. All must be in the folder of the index."""
    files = [index.parent / name for name in shard_names(index)]
    for name, file in zip(shard_names(index), files, strict=True):
        if file.parent != index.parent:
            fix = "move the file next to the index, and name it there without its folder"
            raise UserError(f"{index} names {name!r}, in another folder", fix)
        if file.suffix != ".safetensors" or not file.is_file():
            raise UserError(f"{index.parent} has no {file.name}, which {index.name} names", COPY_AGAIN)
    return files


def hash_files(files: Iterable[Path]) -> str:
    """Return one hash of all files that were read."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(io.sha256(file) if file.name == ONNX else file_sha256(file)))
    return digest.hexdigest()
