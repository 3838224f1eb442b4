"""Upload a publication to a hub as one commit, with huggingface_hub, and explain what the hub refuses."""

from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

import msgspec

from fewstep.cli.push.files import Publication
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import MANIFEST
from fewstep.runtime.hub import describe_error, hub_address, import_hub, is_connection_error, list_causes

LOG_IN = "log in with a token that may write: hf auth login, or HF_TOKEN=TOKEN"
AGAIN = "run the same command again: files that arrived are not sent again"


@dataclass(frozen=True)
class Commit:
    """A commit on the hub: its id and address, the files that it has, and their bytes."""

    model: str
    commit: str
    address: str
    files: int
    bytes: int


class _Listed(msgspec.Struct):
    """The fields of a bundle's manifest by which it differs from other files of that name."""

    schema: int
    bodies: dict[str, object]
    provenance: dict[str, object]
    files: dict[str, str]


def connect() -> ModuleType:
    """Return the module huggingface_hub. Raises UserError if it cannot upload: without it, offline or without a
    token."""
    hub = import_hub("push sends files by huggingface_hub, which")
    if hub.constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE=1 forbids uploads", "unset HF_HUB_OFFLINE")
    if hub.get_token() is None:
        raise UserError("no token of the hub is stored here", LOG_IN)
    return hub


def upload(hub: ModuleType, publication: Publication, name: str, private: bool) -> Commit:
    """Upload the files as one commit, and remove files of the model's former bundle that this one lacks.

    huggingface_hub sends large files before the commit, and leaves out those that the hub has. Raises a one-line
    UserError.
    """
    api = hub.HfApi()
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        info = api.model_info(name)
        if private and not info.private:
            raise UserError(f"{name} exists and is public", "make it private on its page, or leave out --private")
        there = {sibling.rfilename for sibling in info.siblings or ()}
        former = _former_files(hub, name, info.sha, there)
        operations = [
            *(hub.CommitOperationAdd(file, path) for file, path in publication.files.items()),
            *(hub.CommitOperationAdd(file, content) for file, content in publication.contents.items()),
            *(hub.CommitOperationDelete(file) for file in sorted(former - publication.sizes.keys())),
        ]
        message = f"Push {publication.bundle.manifest.name} with fewstep"
        commit = api.create_commit(name, operations, commit_message=message, parent_commit=info.sha)
    except UserError:
        raise
    except Exception as error:  # errors of huggingface_hub, of its network library or of the system
        _refuse(hub, error, name)
    sizes = publication.sizes
    return Commit(name, commit.oid, commit.commit_url, len(sizes), sum(sizes.values()))


def _former_files(hub: ModuleType, name: str, commit: str, there: set[str]) -> set[str]:
    """Return the files of the bundle that the model holds now. Raises UserError if it holds something else."""
    if MANIFEST not in there:
        others = sorted(there - {".gitattributes", "README.md"})
        if others:
            raise UserError(f"{name} exists and is not a bundle: it has {others[0]}", "give another name")
        return set()
    with open(hub.hf_hub_download(name, MANIFEST, revision=commit), "rb") as file:
        try:
            listed = msgspec.json.decode(file.read(), type=_Listed).files
        except msgspec.DecodeError:
            raise UserError(f"{name} exists, and its {MANIFEST} is not a bundle's", "give another name") from None
    return there & listed.keys()


def _refuse(hub: ModuleType, error: Exception, name: str) -> NoReturn:
    """Raise the UserError for an error of huggingface_hub."""
    causes = list_causes(error)
    reason = describe_error(causes[-1])  # the first error
    status = next((code for cause in causes if (code := _status(cause)) is not None), None)
    if any(isinstance(cause, hub.errors.RepositoryNotFoundError) for cause in causes) or status == 404:
        what, fix = f"there is no model {name}, or the token may not see it", f"check the name, or {LOG_IN}"
    elif status == 401:
        what, fix = "the hub does not accept the token", LOG_IN
    elif status == 403:
        what = f"the token may not write to {name}"
        fix = "give a name of your own account or organization, or a token that may write there (hf auth login)"
    elif status in (409, 412):
        what, fix = f"{name} changed during the push", AGAIN
    elif status is None and is_connection_error(causes):
        what, fix = f"{hub_address()} cannot be reached: {reason}", f"check the network and HF_ENDPOINT, then {AGAIN}"
    elif isinstance(error, ValueError):  # such as fields of the card that the hub does not know
        what, fix = f"{hub_address()} refuses {name}: {' '.join(str(error).split())}", "correct what it names"
    else:
        what, fix = f"{name} cannot be pushed: {reason}", AGAIN
    raise UserError(what, fix) from error


def _status(error: BaseException) -> int | None:
    """Return the status of the hub's answer; None for an error without one."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
