"""Open untrusted bundles: schema, paths, sizes and hashes are checked, and errors name a fix.

A hash detects damage, but does not prove origin, since someone who can edit a file can also edit the manifest. It
detects accidents such as incomplete copies, Git LFS pointers, or a manually replaced graph.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec
from numpy.typing import NDArray

from fewstep.plans.errors import UserError, quote_path
from fewstep.plans.schedule import NoiseSchedule
from fewstep.runtime.bundle.conditions import read_null
from fewstep.runtime.bundle.consistency import manifest_problems
from fewstep.runtime.bundle.manifest import SCHEMA, Body, Condition, GraphEntry, Manifest
from fewstep.runtime.bundle.networks import networks, select_network, shared_graphs, step_graphs, with_graphs_of
from fewstep.runtime.bundle.old_schemas import upgrade_manifest
from fewstep.runtime.bundle.onnx_references import external_data_files
from fewstep.runtime.bundle.platforms import WEIGHTS_ONLY
from fewstep.runtime.bundle.remake_commands import (
    EXPORT,
    export_command,
    recalibrate_command,
    refit_command,
    weight_of_fit,
)
from fewstep.runtime.kinds.kind import kinds
from fewstep.runtime.links import Home

T = TypeVar("T")
MANIFEST = "manifest.json"
LOCK = ".fewstep-lock"  # locked by the process that writes the folder; the file remains if that process is killed
MANIFEST_LIMIT = 16 * 2**20  # bytes; an actual manifest has a few thousand
EXPORT_AGAIN = f"copy the bundle again, or make it again: {EXPORT}"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: a consistent manifest, and files that are checked when they are read.

    shared: the graphs that all bodies share, if the manifest has those of one body instead (`with_graphs_of`).
    """

    path: Path
    manifest: Manifest
    shared: Mapping[str, GraphEntry] | None = None

    def __reduce__(self) -> tuple[type["Bundle"], tuple[Path, Manifest, Mapping[str, GraphEntry] | None]]:
        """Support pickling, without the schedule. Other processes then use this manifest, and check the files against
        it."""
        return type(self), (self.path, self.manifest, self.shared)

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """The denoiser's noise schedule. Samplers compare its fingerprint with that of each new plan."""
        return NoiseSchedule(self.manifest.schedule)

    @property
    def export_again(self) -> str:
        """The fix for damage: copy the bundle again, or export it again as recorded."""
        return EXPORT_AGAIN.replace(EXPORT, export_command(self.manifest, self.path))

    def file(self, name: str) -> Path:
        """Return the path of a file of the bundle. Raises UserError unless its sha256 is that of the manifest."""
        expected = self.manifest.files.get(name)
        if expected is None:
            raise UserError(f"{self.path}: the manifest does not list the file {name!r}", self.export_again)
        path = _place(bundle_home(self.path), name)
        with _report_read_errors(path):
            fault = "is missing"
            if path.is_file():
                fault = "" if file_sha256(path) == expected else "is damaged or was edited (its sha256 differs)"
        if fault:
            raise UserError(f"{self.path}: file {name} {fault}", _recovery_hint(self, name))
        return path

    def check_path(self, path: Path) -> Path:
        """Return the path. If it is that of a file of the bundle, the file is first checked against its recorded
        sha256."""
        for file, folder in ((path.absolute(), self.path.absolute()), (path.resolve(), self.path.resolve())):
            name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else ""
            if name in self.manifest.files:
                return self.file(name)
        return path

    def read(self, name: str) -> bytes:
        """Return the checked content of a (small) file of the bundle."""
        return self.file(name).read_bytes()

    def decode(self, name: str, kind: type[T]) -> T:
        """Return the content of a JSON file of the bundle. Raises UserError naming the file and the field that is not
        of the type."""
        try:
            return msgspec.json.decode(self.read(name), type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UserError(f"{self.path / name} cannot be read: {error}", self.export_again) from None

    def graph(self, graph: GraphEntry) -> Path:
        """Return the path of an ONNX file after it and its external weight files are checked."""
        for name in graph.data:
            self.file(name)
        path, folder = self.file(graph.file), PurePosixPath(graph.file).parent
        try:
            referred = external_data_files(path)
        except ValueError as error:
            raise UserError(
                f"{self.path}: {graph.file} is not a graph that fewstep wrote ({error})", self.export_again
            ) from None
        for location in referred:
            if (folder / location).as_posix() not in graph.data:
                raise UserError(
                    f"{self.path}: {graph.file} has weights in {location!r}, which the manifest does not list for it",
                    "do not use this bundle",
                )
        return path

    def null(self, condition: Condition) -> NDArray[Any]:
        """Return the null value of a condition that stores it in a file."""
        name = condition.null_file or ""
        try:
            return read_null(condition, self.read(name))
        except ValueError as error:
            raise UserError(
                f"{self.path}: the null value of {condition.name!r}, {name}: {error}", self.export_again
            ) from None

    def select_network(self, name: str) -> "Bundle":
        """Return the bundle with the named network as its only one."""
        return self if not self.manifest.networks else Bundle(self.path, select_network(self.manifest, name))

    def with_graphs_of(self, body: str) -> "Bundle":
        """Return the bundle as a body sees it: its shared graphs, such as the text encoder, are those that the body
        runs. The bundle may be that of another body."""
        shared = shared_graphs(self.manifest) if self.shared is None else self.shared
        manifest = with_graphs_of(self.manifest, body, shared)
        return self if manifest is self.manifest else replace(self, manifest=manifest, shared=shared)

    def check_continuous(self, verb: str) -> None:
        """Raise UserError for a token denoiser, if the verb does not support it."""
        self.manifest.space.check_continuous(self.path, verb)

    def body(self, name: str) -> Body:
        body = self.manifest.bodies.get(name)
        if body is None:
            have = ", ".join(self.manifest.bodies)
            fix = "name one of those, or make int8 bodies with fewstep calibrate"
            exported = ("float16", *WEIGHTS_ONLY)  # precisions that `fewstep export` makes without float32
            if name not in exported and all(
                body.precision in exported and body.plan is None for body in self.manifest.bodies.values()
            ):
                fix = "export it again in float32, from which all other bodies are made"
            elif "float32" not in self.manifest.bodies:  # `fewstep pack` left it out
                fix = f"name one of those, or use the bundle that this was packed from ({self.manifest.name})"
            raise UserError(f"{self.path} has no body {name!r}, only {have}", fix)
        return body


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle: read and check its manifest. The other files are checked when they are read."""
    if not isinstance(path, str | PathLike):
        what = f"bundle {path!r} is not a path"
        raise UserError(what, "give the folder that `fewstep export` wrote, as text or a Path")
    path = Path(path)
    manifest_path = path / MANIFEST
    with _report_read_errors(path):
        if not path.exists():
            fix = (
                f"fewstep bake BUNDLE --plan dpmpp_2m:8 -o {quote_path(path)}"
                if path.suffix == ".onnx"
                else f"fewstep export SOURCE -o {quote_path(path)}"
            )
            raise UserError(f"there is no {'file' if path.suffix == '.onnx' else 'bundle'} {path}", f"make one: {fix}")
        if path.is_file():
            folder = str(path.parent) if path.name == MANIFEST else f"that holds {MANIFEST}"
            baked = f"; fewstep inspect {quote_path(path)} describes a baked file" if path.suffix == ".onnx" else ""
            raise UserError(f"{path} is a file, and a bundle is a folder", f"give the folder {folder}{baked}")
        if not manifest_path.is_file() and (path / LOCK).is_file():
            what = f"{path} is not a bundle yet: the command that makes it is still running, or was killed"
            raise UserError(what, "wait until that command ends, or run it again")
        if not manifest_path.is_file():
            what = f"{path} is not a bundle: it has no {MANIFEST}"
            raise UserError(what, f"make one: fewstep export SOURCE -o {quote_path(path)}")
        return Bundle(path, read_manifest(path / MANIFEST, path))


def read_manifest(file: Path, folder: Path) -> Manifest:
    """Read the manifest of a bundle, and check everything that does not need the other files of the bundle.

    file: the bundle's manifest, or a draft that will replace it. Raises UserError naming the field that is wrong, and
    OSError.
    """
    path = folder / MANIFEST
    if file.stat().st_size > MANIFEST_LIMIT:
        raise UserError(f"{path} is larger than {MANIFEST_LIMIT} bytes", EXPORT_AGAIN)
    manifest = _decode(file.read_bytes(), path)
    for name in list_files(manifest):
        if name not in manifest.files:
            raise UserError(f"{path}: `files` has no sha256 for {name!r}", EXPORT_AGAIN)
    home = bundle_home(folder)
    for name in manifest.files:
        _place(home, name)
    for field, reason in manifest_problems(manifest):
        raise UserError(f"{path}: field {field}: {reason}", EXPORT_AGAIN)
    return manifest


@contextmanager
def _report_read_errors(path: Path) -> Iterator[None]:
    """Raise UserError for an OSError, such as a missing permission, a name that is too long, or a failing disk."""
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
                f"{path} has schema {schema}, and this fewstep reads up to {SCHEMA}", "pip install --upgrade fewstep"
            )
        if schema < 1:
            raise UserError(f"{path}: field schema: {schema}, and this fewstep reads 1 to {SCHEMA}", EXPORT_AGAIN)
        if schema < SCHEMA:
            document = msgspec.json.decode(content, type=dict[str, Any])
            return msgspec.convert(upgrade_manifest(document, schema), Manifest, str_keys=True)
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `")
        place = place.replace("`", "").replace("$.", "")  # also of "key` in `$.conditions[0].follows`"
        where = f"field {place}: " if place else ""
        raise UserError(f"{path}: {where}{_plain_reason(reason)}", EXPORT_AGAIN) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({_plain_reason(str(error))})", EXPORT_AGAIN) from error


def _plain_reason(reason: str) -> str:
    """Rewrite a decoder's reason as the end of a sentence. An acronym keeps its capitals."""
    reason = reason.replace("Object contains unknown field", "unknown field")
    reason = reason.replace("Object missing required field", "missing field")
    return reason if reason[1:2].isupper() else reason[:1].lower() + reason[1:]


def files_by_verb(manifest: Manifest) -> dict[str, set[str | None]]:
    """Return, for each command, the files of a bundle that the command can make again. None stands for a file that the
    bundle does not have."""
    made: dict[str, set[str | None]] = {}
    for name in networks(manifest):
        for verb, files in _network_files_by_verb(select_network(manifest, name)).items():
            made.setdefault(verb, set()).update(files)
    return made


def _network_files_by_verb(manifest: Manifest) -> dict[str, set[str | None]]:
    int8 = [body for body in manifest.bodies.values() if body.is_quantized]
    lowered = [graph for body in int8 for graph in (*body.graphs, *body.replaces.values())]
    float32, names = manifest.bodies.get("float32"), {graph.file for graph in lowered}
    floats = [graph for graph in shared_graphs(manifest).values() if graph.file not in names]  # not those of a view
    floats += () if float32 is None else float32.graphs
    exported = {file for graph in floats for file in (graph.file, *graph.data)}
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
    """Raise UserError for the first missing file, except reports and files that `verb` makes again.

    Files that exist are not read.
    """
    makers = files_by_verb(bundle.manifest)
    optional = {bundle.manifest.verification}.union(
        *(makers.get(verb_name, set()) for verb_name in ("report", "evaluate", verb))
    )
    home = bundle_home(bundle.path)
    for name in bundle.manifest.files:
        if name not in optional and not _place(home, name).is_file():
            raise UserError(f"{bundle.path}: file {name} is missing", _recovery_hint(bundle, name))


def check_writable(bundle: Bundle, verb: str | None) -> None:
    """Raise UserError if a bundle cannot be changed: a file is missing, as `check_present` says, or is a link to
    another place, such as one in a hub's cache.

    verb: the command that changes the bundle, or None for one that replaces it as a whole.
    """
    if verb is not None:
        check_present(bundle, verb)
    inside = bundle.path.resolve()
    for name in (MANIFEST, *bundle.manifest.files):
        if not (bundle.path / name).resolve().is_relative_to(inside):
            what = f"{bundle.path} cannot be changed: {name} is a link that leads outside it"
            raise UserError(what, f"copy it, and change the copy: cp -rL {quote_path(bundle.path)} COPY")


def _recovery_hint(bundle: Bundle, name: str) -> str:
    """Return the fix for a missing or damaged file of a bundle: run the command that made it again or, if there is
    none, copy the bundle again."""
    lead, manifest, path = "make that file again: ", bundle.manifest, bundle.path
    verbs = [verb for verb, files in files_by_verb(manifest).items() if name in files]
    ways = [f"{lead}{_remake_command(verb, manifest, name, path)}" for verb in verbs]
    for entry in (entry for entry in manifest.fitted if entry.file == name):
        weight = weight_of_fit(path, manifest, entry)
        ways = [refit_command(path, manifest, entry.evaluations, weight, lead)]
    return f"copy the bundle again, or {ways[0]}" if ways else bundle.export_again


def _remake_command(verb: str, manifest: Manifest, file: str, path: Path) -> str:
    """Return the command line of the verb that makes a file of a bundle again."""
    if verb == "calibrate":
        return recalibrate_command(manifest, path, file)
    if verb == "evaluate":
        return f"fewstep measure {quote_path(path)} --columns psnr,fd"
    return f"fewstep {verb} {quote_path(path)}"


def bundle_home(folder: Path) -> Home:
    """Return the places that may hold the files of a bundle, which the manifest's SHA-256 identifies. Its manifest may
    be a link, as in a hub's cache."""
    return Home(folder, folder / MANIFEST, hashed=True)


def _place(home: Home, name: str) -> Path:
    """Return the path of a file of a bundle. Raises UserError if it leads to a place that does not belong to the
    bundle."""
    relative, manifest = PurePosixPath(name), home.folder / MANIFEST
    if not name or relative.is_absolute() or ".." in relative.parts or "\\" in name or ":" in name:
        raise UserError(f"{manifest}: file {name!r} is outside the bundle", EXPORT_AGAIN)
    try:
        home.resolve(home.folder / relative)
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, a zero byte
        raise UserError(f"{manifest}: file {name!r} is not a valid path ({error})", EXPORT_AGAIN) from error
    return home.folder / relative


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal."""
    import hashlib  # loads OpenSSL, which importing the runtime does not need

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def list_files(manifest: Manifest) -> Iterator[str]:
    """Yield every file that a manifest refers to."""
    replaced = (graph for body in manifest.bodies.values() for graph in body.replaces.values())
    for graph in (*(graph for _, graph in step_graphs(manifest)), *replaced, *shared_graphs(manifest).values()):
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
