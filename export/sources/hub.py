"""A denoiser by its name on a hub of models, ORG/NAME or ORG/NAME@REVISION, fetched by the library huggingface_hub.

The answer of the hub fixes the commit, so the bundle names exactly what it was made from. Weights are fetched as
safetensors only, and nothing that could run code. The library keeps files in its own cache: what lies there is not
fetched again, and HF_HUB_OFFLINE=1 uses nothing else. HF_ENDPOINT names another server.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.export.sources.diffusers.files import INDEX, read_json
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.checks import imported

NAME = re.compile(r"(?P<model>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
DESCRIPTIONS = ("*.json", "*.md", "*.txt", "*.model")  # configs, the card, and the files of tokenizers
WEIGHTS = "*.safetensors"
VARIANTS = ("*.fp16.safetensors", "*.bf16.safetensors", "*.non_ema.safetensors")  # the same again, in less precision
NETWORKS = ("unet", "transformer", "controlnet", "t2iadapter", "vae")  # folders of a pipeline whose weights are read
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
    weights = _weights(folder)
    return Fetched(_snapshot(hub.snapshot_download, text, model, commit, (*DESCRIPTIONS, *weights)), model, commit)


def _weights(folder: Path) -> tuple[str, ...]:
    """Patterns of the weights that export reads: of a pipeline those of its networks, else those beside the config."""
    if not (folder / INDEX).is_file():
        return (WEIGHTS,)
    index = read_json(folder / INDEX)
    return tuple(f"{name}/{WEIGHTS}" for name in index if name in NETWORKS or name.startswith("text_encoder"))


def _snapshot(
    download: Callable[..., Any], text: str, model: str, revision: str | None, patterns: tuple[str, ...]
) -> Path:
    try:
        return Path(download(model, revision=revision, allow_patterns=[*patterns], ignore_patterns=[*VARIANTS]))
    except Exception as error:  # the library's own, its network library's, and those of the system
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = lines[0] if lines else "it says nothing"
        what = f"there is no folder {text}, and no model of that name can be fetched"
        raise UserError(f"{what}: {type(error).__name__}: {said}", FIX) from error
