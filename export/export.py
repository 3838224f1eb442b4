"""The verb `export`: a torch module becomes a verified bundle."""

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
from fewstep.runtime.manifest import SCHEMA, Body, Manifest, Provenance
from fewstep.runtime.progress import SILENT, Progress

LOG = logging.getLogger("fewstep")
STAGES = 3  # load, trace, prepare; then verification counts its own points
PACKAGES = ("fewstep", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class ExportOptions:
    """Export a denoiser from torch to a bundle, verified against torch.

    source: a shipped model's name (fashion_mnist), or FILE.py:FUNCTION, a function that returns (module, spec).
    output: the bundle's folder; what was in an older bundle there is replaced.
    """

    source: str
    output: Path = field(metadata={"short": "-o"})


def export(options: ExportOptions, progress: Progress = SILENT) -> Manifest:
    """Trace, rewrite, verify, and only then write: a failure leaves the old bundle, or none."""
    from fewstep.export.trace import trace  # torch takes seconds to load: not for --help
    from fewstep.export.verify import verify

    with open_for_update(options.output, must_exist=False) as writer:
        source = load_source(options.source)
        progress("export", 1, STAGES)
        traced = trace(source)
        progress("export", 2, STAGES)
        prepared = prepare(traced.graph)
        progress("export", 3, STAGES)
        verification = verify(source.module, source.spec, traced, prepared, progress)
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
        return writer.commit(_manifest(source, graphs, table))


def _made(former: Manifest) -> str:
    """What other verbs had added to a bundle."""
    bodies = [name for name in former.bodies if name != "float32"]
    engines = [engine.file for engine in former.engines]
    return ", ".join([*bodies, *engines, *["the report"] * (former.report is not None)])


def load_source(text: str) -> Source:
    """FILE.py:FUNCTION, or a shipped model's name."""
    from fewstep.export.sources.python_file import load_python_file
    from fewstep.export.sources.shipped import load_shipped

    return load_python_file(text) if ":" in text or text.endswith(".py") else load_shipped(text)


def _manifest(source: Source, graphs: dict[str, manifest.Graph], table: str) -> Manifest:
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
            commands=(f"fewstep export {source.label} -o BUNDLE",),
        ),
        files={},
        verification=table,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout
        return None
