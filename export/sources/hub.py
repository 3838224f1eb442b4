"""Load a denoiser by its name on a model hub, ORG/NAME or ORG/NAME@REVISION.

The commit is determined by the hub's answer, so the bundle names its exact source. Only safetensors weights are
fetched, and nothing that could run code.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fewstep.export.sources.checkpoint import PICKLES
from fewstep.export.sources.folder_kinds import find_folder_kind
from fewstep.export.spec import Source, with_spec
from fewstep.plans.errors import UserError
from fewstep.runtime.hub import Download, start_download

DESCRIPTIONS = ("*.json", "*.md", "*.txt", "*.model")  # configs, the model card, and tokenizer files
USUAL_WEIGHTS = "model.safetensors"  # of a model that no kind of folder holds
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


@cache
def fetch(text: str) -> Fetched:
    """Download a model into huggingface_hub's cache if it is not there. Raises a one-line UserError if that fails.

    The hub is asked for the current commit once per process, so that the whole export uses one commit. A long-running
    program must name a REVISION to get another one.
    """
    return _fetch(text, with_weights=True)


@cache
def fetch_configs(text: str) -> Path:
    """Download the descriptions of a model, without weights. Return their folder in huggingface_hub's cache."""
    return _fetch(text, with_weights=False).folder


def _fetch(text: str, with_weights: bool) -> Fetched:
    download = start_download(text)
    folder = download.fetch(DESCRIPTIONS)
    model, commit = download.model, folder.name
    download.warn_of_cache(commit)
    if not with_weights:
        return Fetched(folder, model, commit)
    kind = find_folder_kind(folder)
    weights = [USUAL_WEIGHTS] if kind is None else kind.weights(folder)
    folder = download.fetch((*DESCRIPTIONS, *weights), commit)
    lacking = _lacking(folder, weights)
    if lacking and kind is not None and kind.half_weights is not None:
        half = kind.half_weights(folder)
        folder = download.fetch((*DESCRIPTIONS, *weights, *half), commit)
        lacking = _lacking(folder, half)
    if lacking and download.unanswered is None:
        _refuse_pickles(download, commit, lacking)
    return Fetched(folder, model, commit)


def _lacking(folder: Path, files: Sequence[str]) -> list[str]:
    """Return the files that a folder does not have. After an interrupted download, some shards may be missing."""
    return [name for name in files if not (folder / name).is_file()]


def _refuse_pickles(download: Download, commit: str, lacking: Sequence[str]) -> None:
    """Raise UserError if the hub has the weights of a network, of which files are lacking, only as pickles, which are
    not fetched."""
    model = download.model
    try:
        names = sorted(download.hub.HfApi().list_repo_files(model, revision=commit))
    except Exception as error:
        LOG.debug("the files of %s are not known: %s", model, error)
        return
    for home in dict.fromkeys(Path(name).parent for name in lacking):
        inside = [Path(name) for name in names if Path(name).parent == home]
        if any(path.suffix == ".safetensors" for path in inside):
            continue
        if pickled := [path.as_posix() for path in inside if path.suffix in PICKLES]:
            what = f"{model} has its weights only as pickles ({pickled[0]}), and loading one may run any code"
            raise UserError(what, "ask its makers for safetensors, or name a revision that has them")
