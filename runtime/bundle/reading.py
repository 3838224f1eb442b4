"""The opening of a bundle without trust: schema, paths, sizes and hashes are checked, and failures name a fix.

A hash shows damage, not origin: whoever can edit a file can edit the manifest too. It catches what happens in
practice: half copies, Git LFS pointers, a graph replaced by hand.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.schedule import NoiseSchedule
from fewstep.runtime.bundle.conditions import read_null
from fewstep.runtime.bundle.consistency import denoiser_graphs, manifest_problems
from fewstep.runtime.bundle.fit_command import refit_command, weight_of_fit
from fewstep.runtime.bundle.manifest import SCHEMA, Body, Condition, GraphEntry, Manifest
from fewstep.runtime.bundle.networks import networks, select_network
from fewstep.runtime.bundle.old_schemas import upgrade_manifest
from fewstep.runtime.bundle.onnx_references import external_data_files
from fewstep.runtime.kinds.companions import companions
from fewstep.runtime.kinds.kind import kinds

MANIFEST = "manifest.json"
LOCK = ".fewstep-lock"  # of whoever writes the folder, and of one that was killed
MANIFEST_LIMIT = 16 * 2**20  # bytes; a real one has a few thousand
EXPORT_AGAIN = "copy the bundle again, or make it again: fewstep export SOURCE -o BUNDLE"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: a manifest that holds together, and files that are checked when they are asked for."""

    path: Path
    manifest: Manifest

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """The denoiser's noise schedule. Each plan that is new to a sampler is compared with its fingerprint."""
        return NoiseSchedule(self.manifest.schedule)

    def file(self, name: str) -> Path:
        """The absolute path of a file of the bundle, once its content has the sha256 that the manifest records."""
        expected = self.manifest.files.get(name)
        if expected is None:
            raise UserError(f"{self.path}: the manifest records no file {name!r}", EXPORT_AGAIN)
        path = _resolve_inside(self.path, name)
        with _report_read_errors(path):
            fault = "is missing"
            if path.is_file():
                fault = "" if file_sha256(path) == expected else "is damaged or was edited (its sha256 differs)"
        if fault:
            raise UserError(f"{self.path}: file {name} {fault}", _recovery_hint(self.manifest, name, self.path))
        return path

    def check_path(self, path: Path) -> Path:
        """A path of any file, once that has the recorded sha256 if it is one of the bundle's."""
        file, folder = path.resolve(), self.path.resolve()
        name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else ""
        return self.file(name) if name in self.manifest.files else path

    def read(self, name: str) -> bytes:
        """The checked content of a (small) file of the bundle."""
        return self.file(name).read_bytes()

    def graph(self, graph: GraphEntry) -> Path:
        """The path of an ONNX file, once it and its external weight files are checked."""
        for name in graph.data:
            self.file(name)
        path, folder = self.file(graph.file), PurePosixPath(graph.file).parent
        try:
            referred = external_data_files(path)
        except ValueError as error:
            raise UserError(f"{self.path}: {graph.file} is no ONNX file ({error})", EXPORT_AGAIN) from None
        for location in referred:
            if (folder / location).as_posix() not in graph.data:
                raise UserError(
                    f"{self.path}: {graph.file} has weights in {location!r}, which the manifest does not list for it",
                    "do not use this bundle",
                )
        return path

    def null(self, condition: Condition) -> NDArray[Any]:
        """The null value of a condition that has one in a file."""
        name = condition.null_file or ""
        try:
            return read_null(condition, self.read(name))
        except ValueError as error:
            raise UserError(
                f"{self.path}: the null value of {condition.name!r}, {name}: {error}", EXPORT_AGAIN
            ) from None

    def select_network(self, name: str) -> "Bundle":
        """The bundle as if a network were its only one."""
        return self if not self.manifest.networks else Bundle(self.path, select_network(self.manifest, name))

    def check_continuous(self, verb: str) -> None:
        """UserError for a denoiser of tokens: the verb does not know them yet."""
        if self.manifest.vocabulary:
            what = f"{self.path} is a denoiser of tokens, and {verb} takes continuous samples"
            fix = f"compare bodies by fewstep report {self.path}, and plans by fewstep measure with --plan and -o"
            raise UserError(what, fix)

    def body(self, name: str) -> Body:
        body = self.manifest.bodies.get(name)
        if body is None:
            have = ", ".join(self.manifest.bodies)
            fix = "name one of those; fewstep calibrate makes those in int8"
            if set(self.manifest.bodies) == {"float16"} and name != "float16":  # exported so
                fix = "export it again in float32, from which all others are made"
            elif "float32" not in self.manifest.bodies:  # `fewstep pack` left it out
                fix = f"name one of those, or take the bundle that this was packed from ({self.manifest.name})"
            raise UserError(f"{self.path} has no body {name!r}, only {have}", fix)
        return body


def open_bundle(path: Path | str) -> Bundle:
    """Read and check the manifest. The other files are checked when they are first loaded."""
    if not isinstance(path, str | PathLike):
        raise UserError(f"bundle {path!r} is no path", "give the folder that `fewstep export` wrote, as text or a Path")
    path = Path(path)
    manifest_path = path / MANIFEST
    with _report_read_errors(path):
        if not path.exists():
            fix = f"fewstep bake BUNDLE -o {path}" if path.suffix == ".onnx" else f"fewstep export SOURCE -o {path}"
            raise UserError(f"there is no {'file' if path.suffix == '.onnx' else 'bundle'} {path}", f"make one: {fix}")
        if path.is_file():
            folder = str(path.parent) if path.name == MANIFEST else f"that holds {MANIFEST}"
            baked = f"; fewstep inspect {path} describes a baked file" if path.suffix == ".onnx" else ""
            raise UserError(f"{path} is a file, and a bundle is a folder", f"give the folder {folder}{baked}")
        if not manifest_path.is_file() and (path / LOCK).is_file():
            fix = "wait until that has ended, or run it again"
            raise UserError(f"{path} is no bundle yet: the command that makes it is at work, or was killed", fix)
        if not manifest_path.is_file():
            raise UserError(f"{path} is no bundle: it has no {MANIFEST}", f"make one: fewstep export SOURCE -o {path}")
        _resolve_inside(path, MANIFEST)
        if manifest_path.stat().st_size > MANIFEST_LIMIT:
            raise UserError(f"{manifest_path} is larger than {MANIFEST_LIMIT} bytes", EXPORT_AGAIN)
        content = manifest_path.read_bytes()
    return Bundle(path, check_manifest(content, path))


def check_manifest(content: bytes, folder: Path) -> Manifest:
    """The manifest that `content` is, once all that can be said of it without the files of the bundle holds."""
    path = folder / MANIFEST
    manifest = _decode(content, path)
    for name in list_files(manifest):
        if name not in manifest.files:
            raise UserError(f"{path}: no sha256 in `files` for {name!r}", EXPORT_AGAIN)
    for name in manifest.files:
        _resolve_inside(folder, name)
    for field, reason in manifest_problems(manifest):
        raise UserError(f"{path}: field {field}: {reason}", EXPORT_AGAIN)
    return manifest


@contextmanager
def _report_read_errors(path: Path) -> Iterator[None]:
    """No permission, a name that is too long, a disk that fails: in one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", "check the path and its permissions") from error


class _Version(msgspec.Struct):
    schema: int


def _decode(content: bytes, path: Path) -> Manifest:
    try:
        schema = msgspec.json.decode(content, type=_Version).schema
        if schema > SCHEMA:
            raise UserError(
                f"{path} has schema {schema}, this fewstep reads up to {SCHEMA}", "pip install --upgrade fewstep"
            )
        if schema < 1:
            raise UserError(f"{path}: field schema: {schema}, this fewstep reads 1 to {SCHEMA}", EXPORT_AGAIN)
        if schema < SCHEMA:
            document = msgspec.json.decode(content, type=dict[str, Any])
            return msgspec.convert(upgrade_manifest(document, schema), Manifest)
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `")
        place = place.replace("`", "").replace("$.", "")  # also of "key` in `$.conditions[0].follows`"
        where = f"field {place}: " if place else ""
        raise UserError(f"{path}: {where}{_plain_reason(reason)}", EXPORT_AGAIN) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no valid JSON ({_plain_reason(str(error))})", EXPORT_AGAIN) from error


def _plain_reason(reason: str) -> str:
    """A decoder's reason as the rest of a sentence; an acronym keeps its capitals."""
    reason = reason.replace("Object contains unknown field", "unknown field")
    reason = reason.replace("Object missing required field", "missing field")
    return reason if reason[1:2].isupper() else reason[:1].lower() + reason[1:]


def files_by_verb(manifest: Manifest) -> dict[str, set[str | None]]:
    """The files of a bundle that a verb makes again, by verb; None stands for a file that the bundle does not have."""
    made: dict[str, set[str | None]] = {}
    for name in networks(manifest):
        for verb, files in _network_files_by_verb(select_network(manifest, name)).items():
            made.setdefault(verb, set()).update(files)
    return made


def _network_files_by_verb(manifest: Manifest) -> dict[str, set[str | None]]:
    int8 = [body for body in manifest.bodies.values() if body.precision == "int8"]
    lowered = [graph for body in int8 for graph in body.graphs]
    float32 = manifest.bodies.get("float32")
    exported: set[str] = set() if float32 is None else {float32.graph.file, *float32.graph.data}
    return {
        "build": {file for engine in manifest.engines for file in (engine.file, engine.sidecar)},
        "report": {manifest.report, manifest.results},
        "evaluate": {manifest.evaluation},
        "calibrate": {manifest.ranges, manifest.precision, *manifest.plans.values()}
        | {body.ranges for body in int8}
        | {file for graph in lowered for file in (graph.file, *graph.data)} - exported,  # int8 shares its weights
        "fit": {entry.file for entry in manifest.fitted},
    }


def check_present(bundle: Bundle, verb: str = "") -> None:
    """UserError for the first file that is missing, but for reports and for what `verb` makes again itself. A file
    that is there is not read."""
    makers = files_by_verb(bundle.manifest)
    optional = {bundle.manifest.verification}.union(*(makers.get(each, set()) for each in ("report", "evaluate", verb)))
    for name in bundle.manifest.files:
        if name not in optional and not _resolve_inside(bundle.path, name).is_file():
            fix = _recovery_hint(bundle.manifest, name, bundle.path)
            raise UserError(f"{bundle.path}: file {name} is missing", fix)


def _recovery_hint(manifest: Manifest, name: str, path: Path) -> str:
    """The way to get a file of a bundle back: by copying, or with the verb that made it."""
    lead = "make that file again: "
    ways = [f"{lead}fewstep {verb} {path}" for verb, files in files_by_verb(manifest).items() if name in files]
    for entry in (each for each in manifest.fitted if each.file == name):
        weight = weight_of_fit(path, manifest, entry)
        ways = [refit_command(path, manifest, entry.evaluations, weight, lead)]
    return f"copy the bundle again, or {ways[0]}" if ways else EXPORT_AGAIN


def _resolve_inside(folder: Path, name: str) -> Path:
    """`folder / name`, which must stay inside the folder: also through symbolic links."""
    relative = PurePosixPath(name)
    plain = name and not relative.is_absolute() and ".." not in relative.parts and "\\" not in name and ":" not in name
    path = folder / relative
    try:
        inside = plain and path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, a zero byte
        raise UserError(f"{folder / MANIFEST}: file {name!r} is no path ({error})", EXPORT_AGAIN) from error
    if not inside:
        fix = "copy the files themselves, as cp -rL does: links may not lead out of a bundle" if plain else EXPORT_AGAIN
        raise UserError(f"{folder / MANIFEST}: file {name!r} lies outside the bundle", fix)
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of any size, in hexadecimal."""
    import hashlib  # OpenSSL: not for who only imports the runtime

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def list_files(manifest: Manifest) -> Iterator[str]:
    """Every file that a manifest refers to."""
    for graph in (*(graph for _, graph in denoiser_graphs(manifest)), *companions(manifest).values()):
        yield graph.file
        yield from graph.data
    for _, kind in kinds(manifest):
        yield from kind.files()
    yield from (condition.null_file for condition in manifest.conditions if condition.null_file is not None)
    yield from manifest.plans.values()
    yield from (fitted.file for fitted in manifest.fitted)
    yield from (body.ranges for body in manifest.bodies.values() if body.ranges is not None)
    for engine in manifest.engines:
        yield engine.file
        yield engine.sidecar
    single = ("ranges", "precision", "verification", "report", "results", "evaluation", "scheduler")
    yield from (name for field in single if (name := getattr(manifest, field)) is not None)
    for name in manifest.networks:
        yield from list_files(select_network(manifest, name))
