"""A denoiser by its name on a hub of models, ORG/NAME or ORG/NAME@REVISION, fetched by the library huggingface_hub.

The answer of the hub fixes the commit, so the bundle names exactly what it was made from. Weights are fetched as
safetensors only, and nothing that could run code. The library keeps files in its own cache: what lies there is not
fetched again, and HF_HUB_OFFLINE=1 uses nothing else. HF_ENDPOINT names another server.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewstep.export.sources.diffusers.control import ADAPTER, CONTROLNET
from fewstep.export.sources.diffusers.files import CONFIG, FP16, INDEX, WEIGHTS, index_name, read_json, shard_names
from fewstep.export.sources.lerobot.statistics import state_files
from fewstep.export.spec import Source
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.checks import imported

NAME = re.compile(r"(?P<model>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
DESCRIPTIONS = ("*.json", "*.md", "*.txt", "*.model")  # configs, the card, and the files of tokenizers
NETWORKS = ("unet", "transformer", "vae", CONTROLNET, ADAPTER)  # components of a pipeline whose weights are read
ENCODER, ENCODER_WEIGHTS = "text_encoder", "model"  # how their folders begin, and their files
POLICY, POLICY_WEIGHTS = "pretrained_model", "model.safetensors"  # the folder that a checkpoint of LeRobot may have
FILES = (".py", ".onnx", ".json", ".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".pkl", ".zip")
FIX = "check the name and the network; a folder that was downloaded before works too"


@dataclass(frozen=True)
class Fetched:
    """A model in the library's cache. revision: the commit."""

    folder: Path
    model: str
    revision: str

    @property
    def label(self) -> str:
        """The name with the commit: what exports it again."""
        return f"{self.model}@{self.revision}"

    def named(self, source: Source) -> Source:
        """The source under the model's name, in the place of the cache folder's."""
        spec = replace(source.spec, name=self.model.partition("/")[2])
        return replace(source, spec=spec, label=self.label)  # type: ignore[type-var]


def is_name(text: str) -> bool:
    """Whether a text is the name of a model on a hub. A file or folder of that name goes first, and what ends as files
    of other sources do is a path."""
    match = NAME.fullmatch(text)
    return match is not None and not Path(text).exists() and Path(match["model"]).suffix not in FILES


def fetch(text: str) -> Fetched:
    """The model in the library's cache, fetched where it is not there. UserError in one line where it cannot be had."""
    match = NAME.fullmatch(text)
    if match is None:
        raise UserError(f"{text!r} is no name of a model", "give ORG/NAME, or ORG/NAME@REVISION")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when it is imported
    hub = imported("huggingface_hub", f"{text} is fetched by huggingface_hub, which", "pip install 'fewstep[hub]'")
    model, revision = match["model"], match["revision"]
    folder = _snapshot(hub.snapshot_download, text, model, revision, DESCRIPTIONS)
    commit = folder.name
    homes = _homes(folder)
    lacking = homes
    for variant in (None, FP16):  # the second for networks that the hub does not have in full precision
        wanted = {home: _wanted(folder, home, stem, variant) for home, stem in lacking.items()}
        if wanted:
            names = [name for files in wanted.values() for name in files]
            folder = _snapshot(hub.snapshot_download, text, model, commit, (*DESCRIPTIONS, *names))
        lacking = {home: homes[home] for home, files in wanted.items() if not _are_there(folder, files)}
    if not homes:
        home = f"{POLICY}/" if (folder / POLICY / CONFIG).is_file() else ""
        weights = [f"{home}{name}" for name in (POLICY_WEIGHTS, *state_files(folder / home))]
        folder = _snapshot(hub.snapshot_download, text, model, commit, (*DESCRIPTIONS, *weights))
    return Fetched(folder, model, commit)


def _homes(folder: Path) -> dict[str, str]:
    """The folders of diffusers' networks, each with the stem of its weight files. Empty where it is no such model."""
    if not (folder / INDEX).is_file():
        config = folder / CONFIG
        return {"": WEIGHTS} if config.is_file() and "_class_name" in read_json(config) else {}
    index = read_json(folder / INDEX)
    stems = {name: ENCODER_WEIGHTS if name.startswith(ENCODER) else WEIGHTS for name in index}
    return {f"{name}/": stem for name, stem in stems.items() if name in NETWORKS or name.startswith(ENCODER)}


def _wanted(folder: Path, home: str, stem: str, variant: str | None) -> list[str]:
    """The weight files of a network as `diffusers.files.weights` reads them, whatever other tools have fetched."""
    index = folder / home / index_name(stem, variant)
    if index.is_file():
        return [f"{home}{name}" for name in shard_names(index)]
    return [f"{home}{stem}{f'.{variant}' if variant else ''}.safetensors"]


def _are_there(folder: Path, files: Sequence[str]) -> bool:
    """Whether a network is whole: an interruption leaves some of its shards."""
    return all((folder / name).is_file() for name in files)


def _snapshot(
    download: Callable[..., Any], text: str, model: str, revision: str | None, patterns: Sequence[str]
) -> Path:
    try:
        return Path(download(model, revision=revision, allow_patterns=[*patterns]))
    except Exception as error:  # the library's own, its network library's, and those of the system
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = lines[0] if lines else "it says nothing"
        what = f"there is no folder {text}, and no model of that name can be fetched"
        raise UserError(f"{what}: {type(error).__name__}: {said}", FIX) from error
