"""The files of a model's folder: JSON objects, and weights in safetensors. Nothing is fetched, and no code is run."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from fewstep.graph.files import io
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import file_sha256
from fewstep.runtime.links import refuse_broken_link

Config = Mapping[str, Any]
CONFIG_LIMIT = 16 * 2**20  # bytes of a JSON file
CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
INDEX = "model_index.json"  # of a pipeline
SUFFIXES = (".json", ".safetensors", ".model", ".txt", ".md", ".onnx")  # of the files of a folder that are read
ONNX = "model.onnx"
WEIGHTS = "diffusion_pytorch_model"
NUNCHAKU = "unquantized_layers.safetensors"  # a file in its folders, next to the 4-bit weights
FP16 = "fp16"  # the variant that hubs offer in addition to full precision
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
GIVE_PIPELINE = "give the folder that pipeline.save_pretrained(FOLDER) wrote"
COPY_AGAIN = "copy the folder again"
CONVERT = "write it with save_pretrained(FOLDER, safe_serialization=True)"


def read_json(path: Path, fix: str = GIVE_PIPELINE) -> dict[str, Any]:
    """Return the object in a JSON file. Raises UserError naming the file."""
    if not path.is_file():
        refuse_broken_link(path)
        raise UserError(f"{path} is missing", fix)
    try:
        content = json.loads(path.read_bytes()[:CONFIG_LIMIT], parse_constant=str)  # -Infinity is not valid JSON
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error})", fix) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object", fix)
    return content


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
        for file in (index, single):
            refuse_broken_link(file)
    what = f"{home} has no {stem}.safetensors"
    if (home / NUNCHAKU).is_file():
        raise UserError(
            f"{home} holds a model for Nunchaku ({NUNCHAKU})", "give the model's folder in bfloat16 or float16"
        )
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
        refuse_broken_link(file)
        if file.suffix != ".safetensors" or not file.is_file():
            raise UserError(f"{index.parent} has no {file.name}, which {index.name} names", COPY_AGAIN)
    return files


def hash_files(files: Iterable[Path]) -> str:
    """Return one hash of all files that were read."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(io.sha256(file) if file.name == ONNX else file_sha256(file)))
    return digest.hexdigest()
