"""Load a denoiser by its name on a model hub, ORG/NAME or ORG/NAME@REVISION, with huggingface_hub.

The commit is determined by the hub's answer, so the bundle names its exact source. Only safetensors weights are
fetched, and nothing that could run code. huggingface_hub keeps files in its own cache: cached files are not fetched
again, and with HF_HUB_OFFLINE=1 only they are used. HF_ENDPOINT selects another server.
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
from fewstep.export.sources.folder_kinds import find_folder_kind
from fewstep.export.spec import Source, with_spec
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.checks import import_package

NAME = re.compile(r"(?P<model>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
DESCRIPTIONS = ("*.json", "*.md", "*.txt", "*.model")  # configs, the model card, and tokenizer files
NETWORKS = ("unet", "transformer", "vae", CONTROLNET, ADAPTER)  # components of a pipeline whose weights are read
ENCODER, ENCODER_WEIGHTS = "text_encoder", "model"  # prefixes of the names of their folders and weight files
USUAL_WEIGHTS = "model.safetensors"  # files of a model that is neither diffusers' nor a plugin's
FILES = (".py", ".onnx", ".json", ".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".pkl", ".zip")
COMMIT = re.compile(r"[0-9a-f]{40}")
A_FOLDER = "or give a folder that was downloaded before"
LOG = logging.getLogger("fewstep")


@dataclass(frozen=True)
class Fetched:
    """A model in the library's cache. `revision` is its commit."""

    folder: Path
    model: str
    revision: str

    @property
    def label(self) -> str:
        """The model's name with its commit, ORG/NAME@COMMIT. An export of this name gives the same model again."""
        return f"{self.model}@{self.revision}"

    def rename_source(self, source: Source) -> Source:
        """Return the source with the model's name instead of the cache folder's."""
        return with_spec(source, self.label, name=self.model.partition("/")[2])


def is_name(text: str) -> bool:
    """Return True if a text is the name of a model on a hub. An existing file or folder of that name takes precedence.
    A text with the suffix of another source's files is a path."""
    match = NAME.fullmatch(text)
    return match is not None and not Path(text).exists() and Path(match["model"]).suffix.lower() not in FILES


@cache
def fetch(text: str) -> Fetched:
    """Download a model into huggingface_hub's cache if it is not there. Raises a one-line UserError if that fails.

    The hub is asked for the current commit once per process, so that the whole export uses one commit. A long-running
    program must name a REVISION to get another one.
    """
    match = NAME.fullmatch(text)
    if match is None:
        raise UserError(f"{text!r} is not the name of a model", "give ORG/NAME, or ORG/NAME@REVISION")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # huggingface_hub reads this variable when it is imported
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    hub = import_package(
        "huggingface_hub", f"{text} is fetched by huggingface_hub, which", "pip install 'fewstep[hub]'"
    )
    model, revision = match["model"], match["revision"]
    unanswered = _hub_error(hub, model, revision)
    download = partial(_download, hub, unanswered, model)
    folder = download(revision, DESCRIPTIONS)
    commit = folder.name
    if unanswered is not None and not hub.constants.HF_HUB_OFFLINE:
        why = explain_failure(hub, unanswered, model, revision).what
        LOG.warning("%s comes from the cache, at commit %s, which may not be the newest: %s", text, commit, why)
    homes = _network_folders(folder)
    lacking = homes
    for variant in (None, FP16):  # half precision for networks that the hub does not have in full precision
        wanted = {home: _weight_files(folder, home, stem, variant) for home, stem in lacking.items()}
        if wanted:
            names = [name for files in wanted.values() for name in files]
            folder = download(commit, (*DESCRIPTIONS, *names))
        lacking = {home: homes[home] for home, files in wanted.items() if not _has_files(folder, files)}
    if not homes:
        kind = find_folder_kind(folder)
        weights = [USUAL_WEIGHTS] if kind is None else kind.weights(folder)
        folder = download(commit, (*DESCRIPTIONS, *weights))
        lacking = {} if (folder / weights[0]).is_file() else {weights[0].removesuffix(Path(weights[0]).name): ""}
    if lacking and unanswered is None:
        _refuse_pickles(hub, model, commit, lacking)
    return Fetched(folder, model, commit)


def _network_folders(folder: Path) -> dict[str, str]:
    """Return the folders of diffusers' networks, each with the stem of its weight files. Empty for other models."""
    if not (folder / INDEX).is_file():
        config = folder / CONFIG
        return {"": WEIGHTS} if config.is_file() and "_class_name" in read_json(config) else {}
    index = read_json(folder / INDEX)
    stems = {name: ENCODER_WEIGHTS if name.startswith(ENCODER) else WEIGHTS for name in index}
    return {f"{name}/": stem for name, stem in stems.items() if name in NETWORKS or name.startswith(ENCODER)}


def _weight_files(folder: Path, home: str, stem: str, variant: str | None) -> list[str]:
    """Return the names of a network's weight files that `export.sources.diffusers.files.find_weights` will read,
    whatever other files the folder contains."""
    index = folder / home / index_name(stem, variant)
    if index.is_file():
        return [f"{home}{name}" for name in shard_names(index)]
    return [f"{home}{stem}{f'.{variant}' if variant else ''}.safetensors"]


def _has_files(folder: Path, files: Sequence[str]) -> bool:
    """Return True if all files of a network are in a folder. After an interrupted download, some shards may be
    missing."""
    return all((folder / name).is_file() for name in files)


def _hub_error(hub: Any, model: str, revision: str | None) -> Exception | None:
    """Return the error if the hub cannot be asked which commit a revision is, otherwise None. Raises UserError if the
    hub has no such revision.

    huggingface_hub asks again when it downloads, and caches the answer. If it gets none, it silently uses the cache.
    """
    if revision is not None and COMMIT.fullmatch(revision):  # a commit in the cache cannot change
        return None
    try:
        hub.HfApi().model_info(model, revision=revision, timeout=10)
    except hub.errors.RevisionNotFoundError as error:
        raise explain_failure(hub, error, model, revision) from error
    except Exception as error:  # errors of huggingface_hub, of its network library or of the system
        return error
    return None


def _download(
    hub: Any, unanswered: Exception | None, model: str, revision: str | None, patterns: Sequence[str]
) -> Path:
    """Return the local folder of a commit. It is downloaded, or taken from the cache if the hub did not answer."""
    download: Callable[..., Any] = hub.snapshot_download
    try:
        is_local = unanswered is not None
        return Path(download(model, revision=revision, allow_patterns=[*patterns], local_files_only=is_local))
    except Exception as error:  # errors of the same kinds
        raise explain_failure(hub, unanswered or error, model, revision) from error


def _refuse_pickles(hub: Any, model: str, commit: str, lacking: Mapping[str, str]) -> None:
    """Raise UserError if the hub has a network's weights only as pickles, which are not fetched."""
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
            what = f"{model} has its weights only as pickles ({pickled[0]}), and loading one may run any code"
            raise UserError(what, "ask its makers for safetensors, or name a revision that has them")


def explain_failure(hub: Any, error: Exception, model: str, revision: str | None) -> UserError:
    """Return the UserError for an error of huggingface_hub, the module `hub`. Subclasses are tested before their base
    classes."""
    errors = hub.errors
    causes = _causes(error)

    def has(kind: type[BaseException]) -> bool:
        return any(isinstance(cause, kind) for cause in causes)

    if has(errors.RevisionNotFoundError):
        return UserError(f"{model} has no revision {revision!r}", "check the text after @, or leave it out")
    if has(errors.GatedRepoError):
        fix = "accept its terms on its page, and log in with a token of that account (hf auth login)"
        return UserError(f"{model} is gated: only accounts that accepted its terms may download it", fix)
    if has(errors.RepositoryNotFoundError):
        what = f"there is no folder {model}, and the hub has no public model of that name"
        return UserError(what, "check the name; log in for a private one (hf auth login)")
    if has(errors.OfflineModeIsEnabled) or hub.constants.HF_HUB_OFFLINE:
        what = f"{model} is not in the cache, or incomplete there, and HF_HUB_OFFLINE=1 forbids downloads"
        return UserError(what, f"unset HF_HUB_OFFLINE, {A_FOLDER}")
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno is not None and cause.filename is not None:
            what = f"the cache of huggingface_hub cannot be written: {cause.filename} ({cause.strerror})"
            return UserError(what, "set HF_HOME to a writable folder with enough space")
    reason = _error_text(causes[-1])  # the first error
    address = os.environ.get("HF_ENDPOINT", "the hub")
    if has(errors.LocalEntryNotFoundError) or _is_connection_error(causes):
        what = f"{address} cannot be reached for {model}, which the cache lacks: {reason}"
        return UserError(what, f"check the network and HF_ENDPOINT, {A_FOLDER}")
    return UserError(f"{model} cannot be fetched: {reason}", f"check the name and the network, {A_FOLDER}")


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error, and the chain of errors from which it was raised."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    return causes


def _is_connection_error(causes: list[BaseException]) -> bool:
    """Return whether a network library could not connect. These libraries raise error classes of their own, instead of
    Python's ConnectionError."""
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    return bool(names & {"ConnectError", "TimeoutException", "ProxyError", "NetworkError", "ConnectionError"})


def _error_text(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
