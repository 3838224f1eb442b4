"""`fewstep push`: publish a bundle on a hub of models, with a card of its figures."""

import re
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from fewstep.cli.push.card import build_card
from fewstep.cli.push.files import Publication, collect, manifest_to_publish
from fewstep.cli.push.upload import Commit, connect, upload
from fewstep.plans.errors import UserError
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.hub import FILES, NAME
from fewstep.runtime.options import BundleOptions
from fewstep.runtime.progress import SILENT, Progress

LICENCE = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}")


@dataclass(frozen=True)
class PushOptions(BundleOptions):
    """Publish a bundle (an exported model) on a hub of models, with a model card of its figures. `fewstep run ORG/NAME`
    then samples it anywhere.

    bundle: The folder of the bundle; it stays unchanged.
    name: ORG/NAME of the model on the hub. It is made if it does not exist. Later pushes are new commits.
    licence: The licence of the model, such as apache-2.0, if its source states none.
    private: Make a new model visible to its owners only. A public model of that name is refused.
    """

    name: str = field(metadata={"positional": True})
    licence: str | None = None
    private: bool = False


def push(options: PushOptions, progress: Progress = SILENT) -> Commit:
    """Verify a bundle, and upload its files and its card as one commit.

    An interrupted push leaves the model on the hub as it was. The next one skips files that have arrived. Raises
    UserError if the bundle is damaged, if the hub refuses, and if the name belongs to a model that is not a bundle.
    """
    bundle = _open(options)
    hub = connect()  # before the files are read, which can take minutes
    return upload(hub, _collect(bundle, options, progress), options.name, options.private)


def prepare(options: PushOptions, progress: Progress = SILENT) -> Publication:
    """Check everything that needs no network, and return what would be published."""
    return _collect(_open(options), options, progress)


def _open(options: PushOptions) -> Bundle:
    """Return the bundle after the checks of the options."""
    match = NAME.fullmatch(options.name)
    if match is None or match["revision"] is not None:
        raise UserError(f"{options.name!r} is not the name of a model on a hub", "give ORG/NAME, as my-org/my-model")
    if PurePosixPath(options.name).suffix.lower() in FILES:
        what = f"{options.name!r} ends as the name of a file, so that fewstep run takes it for one"
        raise UserError(what, f"give a name without {PurePosixPath(options.name).suffix}")
    bundle = options.open()
    _licence(options, bundle.manifest.provenance.licence)
    return bundle


def _collect(bundle: Bundle, options: PushOptions, progress: Progress) -> Publication:
    """Verify a bundle, and return its files and its card."""
    integrity = verify(VerifyOptions(options.bundle), progress)
    if integrity.damages:
        first, *others = integrity.damages
        more = f" (and {len(others)} more; fewstep verify lists them)" * bool(others)
        raise UserError(f"{first.what}{more}", first.fix)
    licence = _licence(options, bundle.manifest.provenance.licence)
    bundle = replace(bundle, manifest=manifest_to_publish(bundle))
    return collect(bundle, build_card(bundle, options.name, licence))


def _licence(options: PushOptions, stated: str | None) -> str | None:
    """Return the licence of the model. Raises UserError if the user's differs from the one that the source states."""
    given = options.licence
    if given is not None and LICENCE.fullmatch(given) is None:
        raise UserError(f"--licence {given!r} is not the name of a licence", "give one word, as apache-2.0")
    if given is not None and stated is not None and given.lower() != stated.lower():
        raise UserError(f"the source of {options.bundle} has the licence {stated}, not {given}", "leave out --licence")
    return stated or given
