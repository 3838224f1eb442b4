"""Open a bundle without trusting it: schema, paths, sizes and hashes are checked, and each failure names its fix.

A hash shows damage, not origin: whoever can edit a file can edit the manifest too. It catches what happens in
practice: half copies, Git LFS pointers, a graph replaced by hand.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import NoReturn

import msgspec
import numpy as np

from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import SCHEMA, Body, Graph, Manifest
from fewstep.runtime.schedule import spec_problem

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 16 * 2**20  # bytes; a real one has a few thousand
ELEMENTS_LIMIT = 2**31  # of one sample: beyond it a shape is damage, not a model
EXPORT_AGAIN = "copy the bundle again, or make it again: fewstep export SOURCE -o BUNDLE"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: a manifest that holds together, and files that are checked when they are asked for."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """The absolute path of a file of the bundle, once its content has the sha256 that the manifest records."""
        expected = self.manifest.files.get(name)
        if expected is None:
            raise UserError(f"{self.path}: the manifest records no file {name!r}", EXPORT_AGAIN)
        path, fix = _confined(self.path, name), _make_again(self.manifest, name, self.path)
        with _readable(path):
            if not path.is_file():
                raise UserError(f"{self.path}: file {name} is missing", fix)
            if file_sha256(path) != expected:
                raise UserError(f"{self.path}: file {name} is damaged or was edited (its sha256 differs)", fix)
        return path

    def read(self, name: str) -> bytes:
        """The checked content of a (small) file of the bundle."""
        return self.file(name).read_bytes()

    def graph(self, graph: Graph) -> Path:
        """The path of an ONNX file, once it and its external weight files are checked."""
        for name in graph.data:
            self.file(name)
        return self.file(graph.file)

    def body(self, name: str) -> Body:
        body = self.manifest.bodies.get(name)
        if body is None:
            have = ", ".join(self.manifest.bodies)
            raise UserError(
                f"{self.path} has no body {name!r}, only {have}",
                "name one of those; fewstep calibrate makes those in int8",
            )
        return body


def open_bundle(path: Path | str) -> Bundle:
    """Read and check the manifest. The other files are checked when they are first loaded."""
    if not isinstance(path, str | PathLike):
        raise UserError(f"bundle {path!r} is no path", "give the folder that `fewstep export` wrote, as text or a Path")
    path = Path(path)
    manifest_path = path / MANIFEST
    with _readable(path):
        if not path.exists():
            raise UserError(f"there is no bundle {path}", f"make one: fewstep export SOURCE -o {path}")
        if path.is_file():
            folder = str(path.parent) if path.name == MANIFEST else f"that holds {MANIFEST}"
            raise UserError(f"{path} is a file, and a bundle is a folder", f"give the folder {folder}")
        if not manifest_path.is_file():
            raise UserError(f"{path} is no bundle: it has no {MANIFEST}", f"make one: fewstep export SOURCE -o {path}")
        if manifest_path.stat().st_size > MANIFEST_LIMIT:
            raise UserError(f"{manifest_path} is larger than {MANIFEST_LIMIT} bytes", EXPORT_AGAIN)
        content = manifest_path.read_bytes()
    return Bundle(path, check_manifest(content, path))


def check_manifest(content: bytes, folder: Path) -> Manifest:
    """The manifest that `content` is, once all that can be said of it without the files of the bundle holds."""
    path = folder / MANIFEST
    manifest = _decode(content, path)
    for name in named_files(manifest):
        if name not in manifest.files:
            raise UserError(f"{path}: no sha256 in `files` for {name!r}", EXPORT_AGAIN)
    for name in manifest.files:
        _confined(folder, name)
    _check_consistency(manifest, path)
    return manifest


@contextmanager
def _readable(path: Path) -> Iterator[None]:
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
            raise UserError(f"{path}: field schema: {schema} is no schema version", EXPORT_AGAIN)
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `")
        place = place.rstrip("`").removeprefix("$.")
        where = f"field {place}: " if place else ""
        raise UserError(f"{path}: {where}{_in_plain_words(reason)}", EXPORT_AGAIN) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no valid JSON ({_in_plain_words(str(error))})", EXPORT_AGAIN) from error


def _in_plain_words(reason: str) -> str:
    """A decoder's reason as the rest of a sentence; an acronym keeps its capitals."""
    reason = reason.replace("Object contains unknown field", "unknown field")
    reason = reason.replace("Object missing required field", "missing field")
    return reason if reason[1:2].isupper() else reason[:1].lower() + reason[1:]


def _make_again(manifest: Manifest, name: str, path: Path) -> str:
    """How to get a file of a bundle back: by copying, or with the verb that made it."""
    lowered = [body.graph for body in manifest.bodies.values() if body.precision == "int8"]
    made: dict[str, set[str | None]] = {
        "build": {file for engine in manifest.engines for file in (engine.file, engine.sidecar)},
        "report": {manifest.report, manifest.results},
        "calibrate": {manifest.ranges, *manifest.plans.values()}
        | {file for graph in lowered for file in (graph.file, *graph.data)},
    }
    for verb, files in made.items():
        if name in files:
            return f"copy the bundle again, or make that file again: fewstep {verb} {path}"
    return EXPORT_AGAIN


def _confined(folder: Path, name: str) -> Path:
    """`folder / name`, which must stay inside the folder: also through symbolic links."""
    relative = PurePosixPath(name)
    plain = name and not relative.is_absolute() and ".." not in relative.parts and "\\" not in name and ":" not in name
    path = folder / relative
    try:
        inside = plain and path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, a zero byte
        raise UserError(f"{folder / MANIFEST}: file {name!r} is no path ({error})", EXPORT_AGAIN) from error
    if not inside:
        raise UserError(f"{folder / MANIFEST}: file {name!r} lies outside the bundle", EXPORT_AGAIN)
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of any size, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _graphs(manifest: Manifest) -> Iterator[tuple[str, Graph]]:
    """Each graph with the name of its field."""
    if manifest.prologue is not None:
        yield "prologue", manifest.prologue
    for name, body in manifest.bodies.items():
        yield f"bodies[{name!r}]", body.graph


def named_files(manifest: Manifest) -> Iterator[str]:
    """Every file that a manifest refers to."""
    for _, graph in _graphs(manifest):
        yield graph.file
        yield from graph.data
    yield from manifest.plans.values()
    for engine in manifest.engines:
        yield engine.file
        yield engine.sidecar
    named = (manifest.ranges, manifest.verification, manifest.report, manifest.results)
    yield from (name for name in named if name is not None)


def _fits(number: float, dtype: str) -> bool:
    """Whether a dtype holds the number, exactly if it is an integer type."""
    if np.issubdtype(dtype, np.integer):
        bounds = np.iinfo(dtype)
        return number == np.floor(number) and bounds.min <= number <= bounds.max
    return bool(np.isfinite(number))


def _check_consistency(manifest: Manifest, path: Path) -> None:
    """What types cannot say: sizes make sense, and the graphs fit together."""

    def refuse(field: str, reason: str) -> NoReturn:
        raise UserError(f"{path}: field {field}: {reason}", EXPORT_AGAIN)

    elements = 1
    for size in manifest.x_shape:
        elements *= size
        if size < 1 or elements > ELEMENTS_LIMIT:
            refuse("x_shape", f"{list(manifest.x_shape)} is not the shape of a sample")
    if problem := spec_problem(manifest.schedule):
        refuse(f"schedule.{problem[0]}", problem[1])
    if "float32" not in manifest.bodies:
        refuse("bodies", "there is no float32 body")
    inputs = [condition.input for condition in manifest.conditions]
    if len(set(inputs)) != len(inputs) or len({condition.name for condition in manifest.conditions}) != len(inputs):
        refuse("conditions", "two have the same name or input")
    for index, condition in enumerate(manifest.conditions):
        if condition.null is not None and not _fits(condition.null, condition.dtype):
            refuse(f"conditions[{index}].null", f"{condition.null} is no {condition.dtype}")
        if condition.low is not None and condition.high is not None and condition.low > condition.high:
            refuse(f"conditions[{index}].low", f"{condition.low:g} is above high, {condition.high:g}")
        if any(size < 1 for size in condition.shape):
            refuse(f"conditions[{index}].shape", f"{list(condition.shape)} is not a shape")
    made = {tensor.name for tensor in manifest.prologue.outputs} if manifest.prologue else set()
    for field, graph in _graphs(manifest):
        for tensor in graph.inputs:
            if tensor.role == "condition" and tensor.name not in inputs:
                refuse(field, f"no condition feeds the input {tensor.name!r}")
        for tensor in (*graph.inputs, *graph.outputs):
            if any(size < 1 if isinstance(size, int) else size != "batch" for size in tensor.shape):
                refuse(f"{field}.graph", f"tensor {tensor.name!r} has the shape {list(tensor.shape)}")
    for name, body in manifest.bodies.items():
        field = f"bodies[{name!r}]"
        roles = [tensor.role for tensor in body.graph.inputs]
        if roles.count("x") != 1 or [tensor.role for tensor in body.graph.outputs].count("output") != 1:
            refuse(field, "a body has one input of role x and one output of role output")
        for tensor in (*body.graph.inputs, *body.graph.outputs):
            if tensor.role in ("x", "output") and tensor.shape != ("batch", *manifest.x_shape):
                refuse(field, f"tensor {tensor.name!r} has not the shape batch x x_shape {list(manifest.x_shape)}")
            if tensor.role == "row" and tensor.name not in made:
                refuse(field, f"the prologue does not make the row {tensor.name!r}")
        if list(body.groups) != sorted(set(body.groups)) or (len(body.groups) > 0) != ("group" in roles):
            refuse(f"{field}.groups", "edges must increase, and go together with an input of role group")
