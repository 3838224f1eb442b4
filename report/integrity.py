"""Verify a bundle: hash every file, decode every plan, and compare every graph with the manifest.

`load` checks each file at its first use. This module checks all files at once, for use after a copy or before a
deployment.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fewstep.plans.errors import UserError, first_line, join_fix, quote_path
from fewstep.plans.file import decode_any
from fewstep.plans.schedule import NoiseSchedule
from fewstep.report.engines.differences import EngineComparison, NotCompared
from fewstep.report.page_link import ADDRESS
from fewstep.runtime.backends import graph_names
from fewstep.runtime.backends.checks import path_text
from fewstep.runtime.backends.onnxruntime import ANOTHER_VERSION, OnnxRuntime, version
from fewstep.runtime.backends.port_checks import port_difference
from fewstep.runtime.backends.probe import LARGEST, measure_probe, probe_difference, sizes_of_probe, wrong_result
from fewstep.runtime.bundle.engine_key import ANY_DEVICE
from fewstep.runtime.bundle.manifest import EngineEntry, GraphEntry
from fewstep.runtime.bundle.networks import shared_graphs
from fewstep.runtime.bundle.reading import MANIFEST, Bundle
from fewstep.runtime.bundle.remake_commands import recalibrate_command, refit_command, weight_of_fit
from fewstep.runtime.options import BundleOptions
from fewstep.runtime.progress import SILENT, Progress

FATAL_ONLY = 4
BFLOAT16 = "tensor(bfloat16)"  # part of onnxruntime's error message


@dataclass(frozen=True)
class VerifyOptions(BundleOptions):
    """Check that a bundle (an exported model) is intact: its schema, the hash of each file, its plans, and that each
    graph opens.

    bundle: The folder of the bundle, or a file from `fewstep bake`, whose checksum and test vector are checked, or a
        folder from `fewstep bake --parts`, whose hashes are checked, and whose first step is run.
    graphs: Also open the graphs in onnxruntime, if it is installed, and compare small float graphs with the numbers
        that the export stored, since a version of onnxruntime may compute a graph incorrectly. A baked file is run.
    engines: Also run the graphs in every other inference engine of this machine, and compare the outputs with
        onnxruntime's on equal inputs. If an engine differs, the first differing layer is named.
    data: Samples of the training data (.npz or .safetensors): x [N, *x_shape], and each condition by name. They are
        noised and denoised, which shows whether the spec of the model is right, and names the likely mistake.
    """

    graphs: bool = True
    engines: bool = False
    data: Path | None = None


class Damage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A problem of a bundle, or of an engine for it, and its fix."""

    what: str
    fix: str

    def __str__(self) -> str:
        return join_fix(self.what, self.fix)


class Integrity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of a check. `unnamed` are files in the folder that the manifest does not list."""

    bundle: str
    name: str
    files: int
    bytes: int
    plans: int
    graphs: int  # opened graphs
    damages: tuple[Damage, ...]
    unnamed: tuple[str, ...]
    notes: tuple[str, ...]
    engines: tuple[EngineComparison, ...] = ()
    differing: tuple[Damage, ...] = ()  # of engines whose outputs differ from onnxruntime's; the bundle may be intact
    incorrect: tuple[Damage, ...] = ()  # of graphs that onnxruntime computes incorrectly here; the bundle may be intact

    @property
    def is_whole(self) -> bool:
        return not self.damages


def is_baked(path: Path) -> bool:
    """Return whether a path is a single ONNX file instead of the folder of a bundle."""
    return path.suffix == ".onnx" and path.is_file()


def is_parts(path: Path) -> bool:
    """Return whether a path is a folder of `fewstep bake --parts`."""
    return (path / "run.json").is_file() and not (path / MANIFEST).exists()


def verify(options: VerifyOptions, progress: Progress = SILENT) -> Integrity:
    """Check everything, continuing after the first damage. Raises UserError only if the manifest cannot be read."""
    bundle = options.open()
    manifest = bundle.manifest
    checks = list(_check_hashes(bundle, progress))
    sound = {name for name, damage in checks if damage is None}
    damages = [damage for _, damage in checks if damage is not None]
    damages += _check_plans(bundle, sound)
    damages += _check_other_files(bundle, sound)
    graphs = {name: graph for name, graph in _list_graphs(bundle) if {graph.file, *graph.data} <= sound}
    notes = []
    if options.graphs and find_spec("onnxruntime") is None:
        notes.append("graphs were not opened: onnxruntime is not installed (pip install 'fewstep[cpu]')")
    opened = graphs if options.graphs and not notes else {}
    incorrect = list[Damage]()
    for done, (name, graph) in enumerate(opened.items(), 1):
        damages += _check_graph(bundle, name, graph, incorrect)
        progress("graphs", done, len(opened))
    compared: tuple[EngineComparison, ...] = ()
    if options.engines and not damages and not incorrect:
        compared = tuple(_compare_engines(bundle, progress, notes))
    elif options.engines:
        broken = "the bundle is damaged; repair it, then verify it again"
        why = broken if damages else "onnxruntime, with which they are compared, is incorrect here"
        notes.append(f"engines were not compared, because {why}")
    return Integrity(
        bundle=str(options.bundle),
        name=manifest.name,
        files=len(manifest.files),
        bytes=sum((options.bundle / name).stat().st_size for name in sound),
        plans=len(manifest.plans) + len(manifest.fitted),
        graphs=len(opened),
        damages=tuple(damages),
        unnamed=tuple(_list_unnamed(bundle)),
        notes=tuple(notes),
        engines=compared,
        differing=tuple(engine_damage(comparison) for comparison in compared if not comparison.agrees),
        incorrect=tuple(incorrect),
    )


def _compare_engines(bundle: Bundle, progress: Progress, notes: list[str]) -> Iterator[EngineComparison]:
    """Compare each engine with onnxruntime. Append a note for each engine that could not be compared."""
    from fewstep.report.engines.compare_engines import compare_engines  # imports onnx, which only --engines needs

    for comparison in compare_engines(bundle, progress):
        if isinstance(comparison, NotCompared):
            notes.append(comparison.note)
        else:
            yield comparison


def engine_damage(comparison: EngineComparison) -> Damage:
    """Return the problem of an engine whose outputs differ from onnxruntime's."""
    first = f"; the first differing layer is unknown: {comparison.unknown}"
    if comparison.layer is not None:
        layer = comparison.layer
        fused = ", only when fused: it agrees when all tensors are outputs" * layer.alone
        first = f"; first in {layer.operation} {layer.tensor!r}, by {layer.difference:.2g} of its largest value{fused}"
    engine, graph = comparison.backend, comparison.graph
    what = f"{graph} on {engine} differs from onnxruntime by {comparison.difference:.2g} of the largest output"
    return Damage(f"{what}{first}", "run it on onnxruntime, or report the layer to the vendor of the engine")


def _check_hashes(bundle: Bundle, progress: Progress) -> Iterator[tuple[str, Damage | None]]:
    """Yield each file of the manifest, with its damage or None."""
    for done, name in enumerate(bundle.manifest.files, 1):
        try:
            bundle.file(name)
            yield name, None
        except UserError as error:
            yield name, Damage(error.what, error.fix)
        progress("files", done, len(bundle.manifest.files))


def _check_plans(bundle: Bundle, sound: Iterable[str]) -> Iterator[Damage]:
    """Yield each plan that cannot be read, or that was compiled for another schedule or prediction than the bundle's,
    with the command that makes it again."""
    manifest = bundle.manifest
    fingerprint = NoiseSchedule(manifest.schedule).fingerprint
    again = {file: recalibrate_command(manifest, bundle.path, file) for file in manifest.plans.values()}
    for entry in manifest.fitted:
        weight = weight_of_fit(bundle.path, manifest, entry)
        again[entry.file] = refit_command(bundle.path, manifest, entry.evaluations, weight)
    for file, command in again.items():
        if file not in sound:
            continue
        try:
            plan = decode_any((bundle.path / file).read_bytes(), file)
        except UserError as error:
            yield Damage(error.what, command)
            continue
        if (plan.schedule, plan.prediction) != (fingerprint, manifest.prediction):
            yield Damage(f"{file} is a plan for another denoiser", command)


def _check_other_files(bundle: Bundle, sound: Iterable[str]) -> Iterator[Damage]:
    """Yield the problems of other files: invalid ranges tables, null values of a wrong shape, sidecar files that belong
    to other engines."""
    manifest = bundle.manifest
    for file in dict.fromkeys((manifest.ranges, *(body.ranges for body in manifest.bodies.values()))):
        if file is not None and file in sound:
            try:
                load_file(bundle.path / file)
            except (SafetensorError, ValueError) as error:
                again = recalibrate_command(manifest, bundle.path, file)
                yield Damage(f"{file} is not a table of tensors ({error})", again)
    for condition in manifest.conditions:
        if condition.null_file is not None and condition.null_file in sound:
            try:
                bundle.null(condition)
            except UserError as error:
                yield Damage(error.what, error.fix)
    for engine in manifest.engines:
        if engine.sidecar in sound and not _describes_engine(bundle, engine):
            device = f"--precision {engine.body}" if engine.device == ANY_DEVICE else f"--device {engine.device}"
            again = f"fewstep build {quote_path(bundle.path)} --backend {engine.backend} {device}"
            yield Damage(f"{engine.sidecar} does not describe the engine {engine.file}", again)


def _describes_engine(bundle: Bundle, engine: EngineEntry) -> bool:
    try:
        sidecar = json.loads((bundle.path / engine.sidecar).read_bytes())
    except (ValueError, RecursionError):
        return False
    if not isinstance(sidecar, dict):
        return False
    return sidecar.get("key") == engine.key and sidecar.get("sha256") == bundle.manifest.files.get(engine.file)


def _list_graphs(bundle: Bundle) -> Iterator[tuple[str, GraphEntry]]:
    yield from shared_graphs(bundle.manifest).items()
    for name, body in bundle.manifest.bodies.items():
        yield from graph_names(name, body).items()
        yield from ((f"{which} of {name}", graph) for which, graph in body.replaces.items())
    for network in bundle.manifest.networks:
        yield from ((f"{network}: {name}", graph) for name, graph in _list_graphs(bundle.select_network(network)))


def _check_graph(bundle: Bundle, name: str, graph: GraphEntry, incorrect: list[Damage]) -> Iterator[Damage]:
    """Yield the problems that onnxruntime finds in a graph, and inputs or outputs that differ from the manifest. Append
    the problem of onnxruntime itself if it computes the graph incorrectly."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    path = path_text(bundle.path / graph.file)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no other common base class
        if BFLOAT16 in str(error) and _runs_rounded(bundle, graph):
            return
        yield Damage(
            f"{name}: onnxruntime {onnxruntime.__version__} cannot load {graph.file}: {first_line(error)}",
            "pip install --upgrade onnxruntime, or copy the bundle again",
        )
        return
    if problem := port_difference(graph, session.get_inputs, session.get_outputs):
        yield Damage(f"{name}: {problem}", bundle.export_again)
    elif graph.probe:
        incorrect.extend(_check_probe(bundle, graph))


def _check_probe(bundle: Bundle, graph: GraphEntry) -> Iterator[Damage]:
    """Yield the problem if onnxruntime computes a graph differently from its probe on this machine."""
    opened = OnnxRuntime().load_graph(bundle, graph)
    difference = probe_difference(graph, measure_probe(graph, opened, sizes_of_probe(bundle)))
    if not difference <= LARGEST:
        error = wrong_result(f"onnxruntime {version()}", graph, difference, ANOTHER_VERSION)
        yield Damage(error.what, error.fix)


def _runs_rounded(bundle: Bundle, graph: GraphEntry) -> bool:
    """Return whether a bfloat16 graph runs with float32 kernels and rounding, since onnxruntime's CPU has no bfloat16
    kernels."""
    if find_spec("onnx") is None:
        return True  # the hash is correct, and nothing more can be checked
    from fewstep.measure.simulation import Simulation

    try:
        Simulation(threads=1).load_graph(bundle, graph)
    except UserError:
        return False
    return True


def _list_unnamed(bundle: Bundle) -> Iterator[str]:
    """Yield the files that the manifest does not list, except links, hidden files, the manifest and the report page's
    address."""
    known = {MANIFEST, ADDRESS, *bundle.manifest.files}
    for path in sorted(bundle.path.rglob("*")):
        name = path.relative_to(bundle.path).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(bundle.path).parts)
        if path.is_file() and not path.is_symlink() and not hidden and name not in known:
            yield name
