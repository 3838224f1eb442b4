"""The files of a bundle that `fewstep push` publishes, and the manifest that lists them."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from fewstep.export.sources.card import CARD
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import MANIFEST, Bundle, list_files
from fewstep.runtime.hub import COMMIT, NAME

SUFFIXES = (".onnx", ".data", ".safetensors", ".json", ".npy")  # .data: weights of .onnx files


@dataclass(frozen=True)
class Publication:
    """What is published: the checked bundle with its new manifest, and the card.

    contents: files that are written for the publication, by name. files: those of the bundle, by name.
    """

    bundle: Bundle
    contents: dict[str, bytes]
    files: dict[str, Path]

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of every file."""
        written = {name: len(content) for name, content in self.contents.items()}
        return written | {name: path.stat().st_size for name, path in self.files.items()}


def manifest_to_publish(bundle: Bundle) -> Manifest:
    """Return the manifest without files that are not published: engines, which are native code for one device, and the
    page of the report, whose figures are in the card. Sources are named without folders, which are private. Raises
    UserError for a file of another type."""
    manifest = bundle.manifest
    replace = msgspec.structs.replace
    others = {
        name: replace(entry, engines=(), source=public_source(entry.source))
        for name, entry in manifest.networks.items()
    }
    origin = replace(manifest.provenance, source=public_source(manifest.provenance.source))
    manifest = replace(manifest, engines=(), report=None, networks=others, provenance=origin)
    names = sorted(set(list_files(manifest)))
    for name in names:
        if PurePosixPath(name).suffix not in SUFFIXES:
            what = f"{bundle.path}: file {name} is of a type that is not pushed (only {', '.join(SUFFIXES)})"
            raise UserError(what, "export the bundle again")
    return msgspec.structs.replace(manifest, files={name: manifest.files[name] for name in names})


def public_source(source: str) -> str:
    """Return the label of a source: that of a hub, ORG/NAME@COMMIT, or else the last part of its path."""
    return source if model_of(source) is not None else PurePosixPath(source.replace("\\", "/")).name or source


def model_of(source: str) -> str | None:
    """Return ORG/NAME of a source from a hub; None for others, such as a folder ORG/NAME. Export adds the commit."""
    match = NAME.fullmatch(source)
    is_of_hub = match is not None and COMMIT.fullmatch(match["revision"] or "") is not None
    return match["model"] if match is not None and is_of_hub else None


def collect(bundle: Bundle, card: str) -> Publication:
    """Return the publication of a bundle, whose manifest is the published one."""
    manifest = msgspec.json.format(msgspec.json.encode(bundle.manifest), indent=2)
    files = {name: bundle.path / name for name in bundle.manifest.files}
    return Publication(bundle, {CARD: card.encode(), MANIFEST: manifest}, files)
