"""Files of a model on a hub, by its name ORG/NAME or ORG/NAME@REVISION, fetched by huggingface_hub.

huggingface_hub keeps files in its own cache: cached files are not fetched again, and with HF_HUB_OFFLINE=1 only they
are used. HF_ENDPOINT selects another server. The package is imported only when a name is used.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from types import ModuleType

from fewstep.plans.errors import UserError
from fewstep.runtime.backends.checks import import_package
from fewstep.runtime.bundle.reading import MANIFEST, open_bundle

NAME = re.compile(r"(?P<model>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
FILES = (".py", ".onnx", ".json", ".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".pkl", ".zip")
COMMIT = re.compile(r"[0-9a-f]{40}")
A_FOLDER = "or give a folder that was downloaded before"
LOG = logging.getLogger("fewstep")


@dataclass(frozen=True)
class Download:
    """A revision of a model whose files are fetched.

    text: the name that the user gave. revision: None for the newest commit.
    unanswered: the error if the hub did not answer which commit it is; files then come from the cache.
    """

    hub: ModuleType  # huggingface_hub
    text: str
    model: str
    revision: str | None
    unanswered: Exception | None

    def fetch(self, patterns: Iterable[str], commit: str | None = None) -> Path:
        """Return the local folder of the commit, which has the files of these patterns that the hub has. Its name is
        the commit.

        commit: the commit that an earlier call returned. Raises a one-line UserError if the download fails.
        """
        download: Callable[..., str] = self.hub.snapshot_download
        revision, is_local = commit or self.revision, self.unanswered is not None
        try:
            folder = download(self.model, revision=revision, allow_patterns=[*patterns], local_files_only=is_local)
        except Exception as error:  # errors of huggingface_hub, of its network library or of the system
            raise self.explain(self.unanswered or error) from error
        return Path(folder)

    def explain(self, error: Exception) -> UserError:
        """Return the UserError for an error of huggingface_hub."""
        return explain_failure(self.hub, error, self.model, self.revision)

    def warn_of_cache(self, commit: str) -> None:
        """Log a warning if the commit is the one in the cache because the hub did not answer."""
        if self.unanswered is not None and not self.hub.constants.HF_HUB_OFFLINE:
            why = self.explain(self.unanswered).what
            LOG.warning(
                "%s comes from the cache, at commit %s, which may not be the newest: %s", self.text, commit, why
            )


def is_name(text: str) -> bool:
    """Return True if a text is the name of a model on a hub. An existing file or folder of that name takes precedence.
    A text with the suffix of another source's files is a path."""
    match = NAME.fullmatch(text)
    return match is not None and not Path(text).exists() and Path(match["model"]).suffix.lower() not in FILES


def import_hub(label: str) -> ModuleType:
    """Return the module huggingface_hub. Raises UserError with `label`, which says what needs it, if it is not
    installed."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # huggingface_hub reads this variable when it is imported
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    fix = "pip install 'fewstep[hub]'"
    hub: ModuleType = import_package("huggingface_hub", label, fix)
    for part in ("constants", "errors"):  # attributes of the package only after their import
        import_package(f"huggingface_hub.{part}", label, fix)
    return hub


def start_download(text: str) -> Download:
    """Ask the hub for a revision. Raises UserError if the text is not a name, or if the hub has no such revision."""
    match = NAME.fullmatch(text)
    if match is None:
        raise UserError(f"{text!r} is not the name of a model", "give ORG/NAME, or ORG/NAME@REVISION")
    hub = import_hub(f"there is no folder {text}, and as a name it is fetched by huggingface_hub, which")
    model, revision = match["model"], match["revision"]
    return Download(hub, text, model, revision, _hub_error(hub, model, revision))


def fetch_bundle(text: str) -> Path:
    """Download a bundle by its name, and return its folder in huggingface_hub's cache.

    Only the manifest and the files that it lists are fetched. Files in the cache are not fetched again, so an
    interrupted download continues. Raises a one-line UserError if that fails, or if the model is not a bundle.
    """
    download = start_download(text)
    folder = download.fetch((MANIFEST,))
    if not (folder / MANIFEST).is_file():
        if download.unanswered is not None:
            raise download.explain(download.unanswered)
        fix = f"make one of the model: fewstep export {text} -o BUNDLE"
        raise UserError(f"{text} is not a bundle: it has no {MANIFEST}", fix)
    download.warn_of_cache(folder.name)
    files = open_bundle(folder).manifest.files
    folder = download.fetch(map(escape, files), folder.name)
    for name in files:
        if not (folder / name).is_file():
            if download.unanswered is not None:
                raise download.explain(download.unanswered)
            raise UserError(f"{text} is incomplete: the hub has no file {name}", "ask its makers to push it again")
    LOG.info("%s is the commit %s", text, folder.name)
    return folder


def _hub_error(hub: ModuleType, model: str, revision: str | None) -> Exception | None:
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


def explain_failure(hub: ModuleType, error: Exception, model: str, revision: str | None) -> UserError:
    """Return the UserError for a download's error of huggingface_hub, the module `hub`. Subclasses are tested before
    their base classes."""
    errors = hub.errors
    causes = list_causes(error)

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
    reason = describe_error(causes[-1])  # the first error
    if has(errors.LocalEntryNotFoundError) or is_connection_error(causes):
        what = f"{hub_address()} cannot be reached for {model}, which the cache lacks: {reason}"
        return UserError(what, f"check the network and HF_ENDPOINT, {A_FOLDER}")
    return UserError(f"{model} cannot be fetched: {reason}", f"check the name and the network, {A_FOLDER}")


def hub_address() -> str:
    """Return the address of another hub than the usual one, or "the hub"."""
    return os.environ.get("HF_ENDPOINT", "the hub")


def list_causes(error: BaseException) -> list[BaseException]:
    """Return an error, and the chain of errors from which it was raised."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    return causes


def is_connection_error(causes: Iterable[BaseException]) -> bool:
    """Return whether a network library could not connect. These libraries raise error classes of their own, instead of
    Python's ConnectionError."""
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    return bool(names & {"ConnectError", "TimeoutException", "ProxyError", "NetworkError", "ConnectionError"})


def describe_error(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
