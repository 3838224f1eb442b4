"""The verb `export`: a denoiser becomes a verified bundle."""

import logging
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from fewstep.export.spec import Source
from fewstep.graph.commit import open_for_update
from fewstep.graph.describe import describe
from fewstep.graph.io import store
from fewstep.graph.prepare import prepare
from fewstep.runtime import manifest
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import SCHEMA, Body, Manifest, Provenance
from fewstep.runtime.progress import SILENT, Progress

LOG = logging.getLogger("fewstep")
STAGES = 3  # load, trace, prepare; then verification counts its own points
PACKAGES = ("fewstep", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class ExportOptions:
    """Export a denoiser to a bundle, verified against what it came from.

    source: a shipped model's name (fashion_mnist), FILE.py:FUNCTION, a function that returns (module, spec),
        an .onnx file with --spec, or a diffusers folder.
    output: the bundle's folder; what was in an older bundle there is replaced.
    spec: JSON that says what an .onnx file does not: names, schedule, prediction, conditions.
    """

    source: str
    output: Path = field(metadata={"short": "-o"})
    spec: Path | None = None


def export(options: ExportOptions, progress: Progress = SILENT) -> Manifest:
    """Trace, rewrite, verify, and only then write: a failure leaves the old bundle, or none."""
    from fewstep.export.verify import verify  # onnxruntime: not for --help

    with open_for_update(options.output, must_exist=False) as writer:
        source = load_source(options.source, options.spec)
        progress("export", 1, STAGES)
        traced = source.trace()
        progress("export", 2, STAGES)
        prepared = prepare(traced.graph)
        progress("export", 3, STAGES)
        verification = verify(source.spec, traced, prepared, progress)
        inputs = [condition.input for condition in source.spec.conditions]
        graphs = {
            name: describe(graph, *store(writer, graph, name), conditions=inputs)
            for name, graph in (("prologue", prepared.prologue), ("body", prepared.body))
            if graph is not None
        }
        content = msgspec.json.format(msgspec.json.encode(verification))
        table = writer.add(content, folder="report", name="verification", suffix=".json")
        former = writer.manifest
        if former is not None and len(former.bodies) > 1:
            LOG.warning("%s is new: what was made from the former one is gone (%s)", options.output, _made(former))
        scheduler = None
        if source.scheduler is not None:
            content = msgspec.json.format(msgspec.json.encode(source.scheduler))
            scheduler = writer.add(content, folder="plans", name="scheduler", suffix=".json")
        return writer.commit(msgspec.structs.replace(_manifest(options, source, graphs, table), scheduler=scheduler))


def check(options: ExportOptions) -> Source:
    """The source, once it is read and its spec holds, and the bundle's place can be written."""
    source = load_source(options.source, options.spec)
    with open_for_update(options.output, must_exist=False):
        return source


def _made(former: Manifest) -> str:
    """What other verbs had added to a bundle."""
    bodies = [name for name in former.bodies if name != "float32"]
    engines = [engine.file for engine in former.engines]
    return ", ".join([*bodies, *engines, *["the report"] * (former.report is not None)])


def load_source(text: str, spec: Path | None = None) -> Source:
    """What a source is, is seen by its form: FILE.py:FUNCTION, FILE.onnx, a folder, or a shipped model's name."""
    from fewstep.export.sources import diffusers_folder, onnx_file, python_file, shipped

    is_folder = Path(text).is_dir()  # first: a folder's name may hold a colon, as those of Windows do
    if text.endswith(".onnx") and not is_folder:
        return onnx_file.load_onnx_file(Path(text), spec)
    if spec is not None:
        raise UserError(f"source {text!r} brings its own spec", "leave --spec out: it is for .onnx files")
    if is_folder:
        return diffusers_folder.load_diffusers_folder(Path(text))
    if ":" in text or text.endswith(".py"):
        return python_file.load_python_file(text)
    return shipped.load_shipped(text)


def _manifest(options: ExportOptions, source: Source, graphs: dict[str, manifest.Graph], table: str) -> Manifest:
    spec = source.spec
    return Manifest(
        schema=SCHEMA,
        name=spec.name,
        x_shape=spec.x_shape,
        conditions=spec.conditions,
        prediction=spec.prediction,
        schedule=spec.schedule,
        prologue=graphs.get("prologue"),
        bodies={"float32": Body(graphs["body"], precision="float32", target="portable")},
        provenance=Provenance(
            source=source.label,
            source_sha256=source.sha256,
            versions={package: found for package in PACKAGES if (found := _version(package))},
            commands=(_command(options, source),),
        ),
        files={},
        verification=table,
        heads=spec.heads,
        towards=spec.towards,
    )


def _command(options: ExportOptions, source: Source) -> str:
    """The command that does this again, without anybody's paths."""
    return f"fewstep export {source.label} -o BUNDLE" + ("" if options.spec is None else f" --spec {options.spec.name}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout
        return None
