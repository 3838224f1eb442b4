"""Open a bundle without trusting it: schema, paths, sizes and hashes are checked, and each failure names its fix.

A hash shows damage, not origin: whoever can edit a file can edit the manifest too. It catches what happens in
practice: half copies, Git LFS pointers, a graph replaced by hand.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import msgspec

from fewstep.runtime.conditions import condition_problem
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import SCHEMA, Body, Graph, Manifest
from fewstep.runtime.onnx_references import referred_files
from fewstep.runtime.schedule import spec_problem

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 16 * 2**20  # bytes; a real one has a few thousand
ELEMENTS_LIMIT = 2**28  # of one sample: beyond it a shape is damage, not a model
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
        path, folder = self.file(graph.file), PurePosixPath(graph.file).parent
        try:
            referred = referred_files(path)
        except ValueError as error:
            raise UserError(f"{self.path}: {graph.file} is no ONNX file ({error})", EXPORT_AGAIN) from None
        for location in referred:
            if (folder / location).as_posix() not in graph.data:
                raise UserError(
                    f"{self.path}: {graph.file} has weights in {location!r}, which the manifest does not list for it",
                    "do not use this bundle",
                )
        return path

    def body(self, name: str) -> Body:
        body = self.manifest.bodies.get(name)
        if body is None:
            have = ", ".join(self.manifest.bodies)
            fix = "name one of those; fewstep calibrate makes those in int8"
            if "float32" not in self.manifest.bodies:  # `fewstep pack` left it out
                fix = f"name one of those, or take the bundle that this was packed from ({self.manifest.name})"
            raise UserError(f"{self.path} has no body {name!r}, only {have}", fix)
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
        if schema < SCHEMA - 1 or schema < 1:
            raise UserError(
                f"{path}: field schema: {schema}, this fewstep reads {SCHEMA} and {SCHEMA - 1}", EXPORT_AGAIN
            )
        if schema < SCHEMA:
            return msgspec.convert(_from_schema_1(msgspec.json.decode(content, type=dict[str, Any])), Manifest)
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `")
        place = place.rstrip("`").removeprefix("$.")
        where = f"field {place}: " if place else ""
        raise UserError(f"{path}: {where}{_in_plain_words(reason)}", EXPORT_AGAIN) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no valid JSON ({_in_plain_words(str(error))})", EXPORT_AGAIN) from error


def _from_schema_1(document: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 called the float16 body after its only engine. All that schema 2 added has a default."""
    former, name = "float16-tensorrt", "float16"
    bodies, engines = document.get("bodies"), document.get("engines")
    if isinstance(bodies, dict):
        bodies = {name if key == former else key: body for key, body in bodies.items()}
        document = document | {"bodies": bodies}
    if isinstance(engines, list):
        engines = [
            each | {"body": name} if isinstance(each, dict) and each.get("body") == former else each for each in engines
        ]
        document = document | {"engines": engines}
    return document | {"schema": SCHEMA}


def _in_plain_words(reason: str) -> str:
    """A decoder's reason as the rest of a sentence; an acronym keeps its capitals."""
    reason = reason.replace("Object contains unknown field", "unknown field")
    reason = reason.replace("Object missing required field", "missing field")
    return reason if reason[1:2].isupper() else reason[:1].lower() + reason[1:]


def _make_again(manifest: Manifest, name: str, path: Path) -> str:
    """How to get a file of a bundle back: by copying, or with the verb that made it."""
    int8 = [body for body in manifest.bodies.values() if body.precision == "int8"]
    lowered = [graph for body in int8 for graph in (body.graph, *(stage.graph for stage in body.stages))]
    made: dict[str, set[str | None]] = {
        "build": {file for engine in manifest.engines for file in (engine.file, engine.sidecar)},
        "report": {manifest.report, manifest.results},
        "evaluate": {manifest.evaluation},
        "calibrate": {manifest.ranges, manifest.precision, *manifest.plans.values()}
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
    import hashlib  # OpenSSL: not for who only imports the runtime

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
        for number, stage in enumerate(body.stages):
            yield f"bodies[{name!r}].stages[{number}]", stage.graph


def named_files(manifest: Manifest) -> Iterator[str]:
    """Every file that a manifest refers to."""
    for _, graph in _graphs(manifest):
        yield graph.file
        yield from graph.data
    yield from manifest.plans.values()
    for engine in manifest.engines:
        yield engine.file
        yield engine.sidecar
    named = (
        manifest.ranges,
        manifest.precision,
        manifest.verification,
        manifest.report,
        manifest.results,
        manifest.evaluation,
        manifest.scheduler,
    )
    yield from (name for name in named if name is not None)


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
    if not manifest.bodies:
        refuse("bodies", "there is none")
    inputs = [condition.input for condition in manifest.conditions]
    if len(set(inputs)) != len(inputs) or len({condition.name for condition in manifest.conditions}) != len(inputs):
        refuse("conditions", "two have the same name or input")
    for index, condition in enumerate(manifest.conditions):
        if problem := condition_problem(condition):
            refuse(f"conditions[{index}].{problem[0]}", problem[1])
    made = {tensor.name for tensor in manifest.prologue.outputs} if manifest.prologue else set()
    for field, graph in _graphs(manifest):
        for tensor in graph.inputs:
            if tensor.role != "condition":
                continue
            fed = [each for each in manifest.conditions if each.input == tensor.name]
            if not fed:
                refuse(field, f"no condition feeds the input {tensor.name!r}")
            if (tensor.shape, tensor.dtype) != (("batch", *fed[0].shape), fed[0].dtype):
                refuse(field, f"the input {tensor.name!r} is not batch x {list(fed[0].shape)} of {fed[0].dtype}")
        for tensor in (*graph.inputs, *graph.outputs):
            if any(size < 1 if isinstance(size, int) else size != "batch" for size in tensor.shape):
                refuse(f"{field}.graph", f"tensor {tensor.name!r} has the shape {list(tensor.shape)}")
    for field, graph in _graphs(manifest):
        if graph is manifest.prologue:
            continue
        roles = [tensor.role for tensor in graph.inputs]
        if roles.count("x") != 1 or [tensor.role for tensor in graph.outputs].count("output") != 1:
            refuse(field, "a body has one input of role x and one output of role output")
        for tensor in (*graph.inputs, *graph.outputs):
            heads = manifest.heads if tensor.role == "output" else 1
            wanted = ("batch", heads * manifest.x_shape[0], *manifest.x_shape[1:])
            if tensor.role in ("x", "output") and tensor.shape != wanted:
                refuse(field, f"tensor {tensor.name!r} has the shape {list(tensor.shape)}, not {list(wanted)}")
            if tensor.role == "row" and tensor.name not in made:
                refuse(field, f"the prologue does not make the row {tensor.name!r}")
    for name, body in manifest.bodies.items():
        graphs = (body.graph, *(stage.graph for stage in body.stages))
        grouped = any(tensor.role == "group" for graph in graphs for tensor in graph.inputs)
        edges, untils = list(body.groups), [stage.until for stage in body.stages]
        if edges != sorted(set(edges)) or (len(edges) > 0) != grouped:
            refuse(f"bodies[{name!r}].groups", "edges must increase, and go together with an input of role group")
        if untils != sorted(set(untils)) or not all(1 <= until <= len(edges) for until in untils):
            refuse(f"bodies[{name!r}].stages", f"they end at the groups {untils} of {len(edges) + 1}")
