"""A denoiser by its name on a hub of models, ORG/NAME or ORG/NAME@REVISION, fetched by the library huggingface_hub.

The answer of the hub fixes the commit, so the bundle names exactly what it was made from. Weights are fetched as
safetensors only, and nothing that could run code. The library keeps files in its own cache: what lies there is not
fetched again, and HF_HUB_OFFLINE=1 uses nothing else. HF_ENDPOINT names another server.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from fewstep.export.sources.checkpoint import PICKLES
from fewstep.export.sources.diffusers.control import ADAPTER, CONTROLNET
from fewstep.export.sources.diffusers.files import CONFIG, FP16, INDEX, WEIGHTS, index_name, read_json, shard_names
from fewstep.export.sources.folders import kind_of
from fewstep.export.sources.hub_failure import failure
from fewstep.export.spec import Source, with_spec
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.checks import imported

NAME = re.compile(r"(?P<model>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
DESCRIPTIONS = ("*.json", "*.md", "*.txt", "*.model")  # configs, the card, and the files of tokenizers
NETWORKS = ("unet", "transformer", "vae", CONTROLNET, ADAPTER)  # components of a pipeline whose weights are read
ENCODER, ENCODER_WEIGHTS = "text_encoder", "model"  # how their folders begin, and their files
USUAL_WEIGHTS = "model.safetensors"  # what a model of neither diffusers nor a plugin has
FILES = (".py", ".onnx", ".json", ".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".pkl", ".zip")
COMMIT = re.compile(r"[0-9a-f]{40}")
LOG = logging.getLogger("fewstep")


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
        return with_spec(source, self.label, name=self.model.partition("/")[2])


def is_name(text: str) -> bool:
    """True if a text is the name of a model on a hub. A file or folder of that name goes first, and what ends as files
    of other sources do is a path."""
    match = NAME.fullmatch(text)
    return match is not None and not Path(text).exists() and Path(match["model"]).suffix.lower() not in FILES


@cache
def fetch(text: str) -> Fetched:
    """The model in the library's cache, fetched where it is not there. UserError in one line where it cannot be had.

    The hub is asked once in a process, so that all of an export is of one commit. A program that runs for long names a
    REVISION to get another one.
    """
    match = NAME.fullmatch(text)
    if match is None:
        raise UserError(f"{text!r} is no name of a model", "give ORG/NAME, or ORG/NAME@REVISION")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when it is imported
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    hub = imported("huggingface_hub", f"{text} is fetched by huggingface_hub, which", "pip install 'fewstep[hub]'")
    model, revision = match["model"], match["revision"]
    unanswered = _unanswered(hub, model, revision)
    download = partial(_snapshot, hub, unanswered, model)
    folder = download(revision, DESCRIPTIONS)
    commit = folder.name
    if unanswered is not None and not hub.constants.HF_HUB_OFFLINE:
        why = failure(hub, unanswered, model, revision).what
        LOG.warning("%s comes from the cache, at commit %s, which may not be the newest: %s", text, commit, why)
    homes = _homes(folder)
    lacking = homes
    for variant in (None, FP16):  # the second for networks that the hub does not have in full precision
        wanted = {home: _wanted(folder, home, stem, variant) for home, stem in lacking.items()}
        if wanted:
            names = [name for files in wanted.values() for name in files]
            folder = download(commit, (*DESCRIPTIONS, *names))
        lacking = {home: homes[home] for home, files in wanted.items() if not _are_there(folder, files)}
    if not homes:
        kind = kind_of(folder)
        weights = [USUAL_WEIGHTS] if kind is None else kind.weights(folder)
        folder = download(commit, (*DESCRIPTIONS, *weights))
        lacking = {} if (folder / weights[0]).is_file() else {weights[0].removesuffix(Path(weights[0]).name): ""}
    if lacking and unanswered is None:
        _refuse_pickles(hub, model, commit, lacking)
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
    """True if a network is whole: an interruption leaves some of its shards."""
    return all((folder / name).is_file() for name in files)


def _unanswered(hub: Any, model: str, revision: str | None) -> Exception | None:
    """Why the hub does not say which commit a revision is, if so. UserError where it has no such revision.

    The library asks again, and keeps its answer in the cache; where it gets none it takes the cache's without a word.
    """
    if revision is not None and COMMIT.fullmatch(revision):  # nothing to ask, and what is in the cache is that
        return None
    try:
        hub.HfApi().model_info(model, revision=revision, timeout=10)
    except hub.errors.RevisionNotFoundError as error:
        raise failure(hub, error, model, revision) from error
    except Exception as error:  # the library's own, its network library's, and those of the system
        return error
    return None


def _snapshot(
    hub: Any, unanswered: Exception | None, model: str, revision: str | None, patterns: Sequence[str]
) -> Path:
    """The folder of a commit; where the hub did not answer, as the cache has it."""
    download: Callable[..., Any] = hub.snapshot_download
    try:
        is_local = unanswered is not None
        return Path(download(model, revision=revision, allow_patterns=[*patterns], local_files_only=is_local))
    except Exception as error:  # as above
        raise failure(hub, unanswered or error, model, revision) from error


def _refuse_pickles(hub: Any, model: str, commit: str, lacking: Mapping[str, str]) -> None:
    """UserError where a network's weights are on the hub as pickles alone, which are not fetched."""
    try:
        names = sorted(hub.HfApi().list_repo_files(model, revision=commit))
    except Exception as error:
        LOG.debug("the files of %s are not known: %s", model, error)
        return
    for home in lacking:
        inside = [Path(name) for name in names if Path(name).parent == Path(home)]
        if any(each.suffix == ".safetensors" for each in inside):
            continue
        if pickled := [each.as_posix() for each in inside if each.suffix in PICKLES]:
            what = f"{model} has its weights as pickles alone ({pickled[0]}), and reading one may run any code"
            raise UserError(what, "ask its makers for safetensors, or name a revision that has them")
