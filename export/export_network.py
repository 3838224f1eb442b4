"""Export one network: trace, rewrite and verify it, split it for feature caching, and write its graphs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from fewstep.export.export_options import ExportPrecision
from fewstep.export.graph_warnings import warn_of_operations, warn_of_repeated_work
from fewstep.export.light_network import cut_features
from fewstep.export.probes import add_probe
from fewstep.export.spec import Source, Spec
from fewstep.export.verification.points import Scope
from fewstep.export.verification.stored import measure_ratio
from fewstep.export.weights_only import BITS, check_bits, store_quantized
from fewstep.graph.cuts.prologue import PreparedDenoiser
from fewstep.graph.describe import describe
from fewstep.graph.files.commit import Writer
from fewstep.graph.files.io import store, store_weights
from fewstep.graph.files.weights import collect_garbage, place_of, release
from fewstep.graph.graph import OUTPUT, TIME, Graph
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.half import to_half
from fewstep.plans.plan import LIGHT
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.platforms import Bits
from fewstep.runtime.kinds.named_tensors import Features
from fewstep.runtime.machine.packages import version_of
from fewstep.runtime.progress import Progress

if TYPE_CHECKING:
    from fewstep.export.load_and_trace import Origin, PrepareCheck
    from fewstep.export.verification.verify import ReferenceOutputs

LOG = logging.getLogger("fewstep")
ROUNDED = "%s: weights rounded to the nearest %s; its output is %.1f dB above their error at %s%s"


@dataclass(frozen=True)
class ExportedNetwork:
    """A network whose graphs and verification table are files of the bundle.

    graphs: by name, "body" and those of "conditioner", "prologue" and "light" that the network has.
    features: the inner features that the body returns and the light graph reads; None without feature caching.
    """

    origin: "Origin"
    graphs: Mapping[str, GraphEntry]
    table: str
    features: Features | None = None


@dataclass(frozen=True)
class NetworkOptions:
    """How a network is exported: the precision of its bodies, the scope of its verification, the versions of packages,
    and the name of its cut for feature caching."""

    precision: ExportPrecision
    scope: Scope
    versions: Mapping[str, str] = field(default_factory=dict)
    cut: str | None = None


def export_network(
    writer: Writer,
    options: NetworkOptions,
    load: Callable[[], Source],
    progress: Progress,
    check: "PrepareCheck | None" = None,
) -> ExportedNetwork:
    """Trace, rewrite and verify a network, and write its graphs to the bundle.

    load: returns the network to export.
    check: called with the network's spec before it is traced, and then with a function that evaluates it; raises
        UserError if they contradict the data given by the user.
    """
    from fewstep.export.load_and_trace import load_and_trace  # imports onnxruntime, which --help does not need
    from fewstep.export.verification.verify import ReferenceOutputs, Verification, compare

    verified_with = (options.precision, repr(dict(options.versions)))
    taken = load_and_trace(load, writer, progress, options.scope, *verified_with, check=check)
    collect_garbage(taken.exported)
    origin, prepared, light, features = taken.origin, taken.prepared, None, None
    warn_of_operations(prepared)
    warn_of_repeated_work(prepared)
    if options.cut is not None:
        prepared, light, features = cut_features(prepared, options.cut, origin.spec)
    bodies = [prepared.body] if light is None else [prepared.body, light]
    is_half, bits = options.precision == "float16", BITS.get(options.precision)
    deployed = _convert_to_float16(writer, bodies) if is_half else bodies
    half = replace(prepared, body=deployed[0]) if is_half else None
    if bits is not None:
        check_bits(prepared.body, bits)
    if isinstance(taken.expected, Verification):
        verification = taken.expected
        LOG.warning("the replaced bundle has the same graphs, verified with the same versions: they are not run again")
    else:
        rounds = bits is None  # no engine is built from weights in integers
        compared = compare(taken.expected, taken.exported, prepared, taken.again, progress, half, rounds)
        verification = msgspec.structs.replace(compared, verified=taken.verified)
    if light is not None:
        deployed = list(store_weights(writer, *deployed))  # both read one file
    parts = {"conditioner": prepared.conditioner, "prologue": prepared.prologue}
    parts |= dict(zip(("body", LIGHT), deployed, strict=False))
    named = {part: graph for part, graph in parts.items() if graph is not None}
    if bits is None:
        graphs = _store_floats(writer, named, origin.spec)
    else:
        graphs, rounded = _store_integers(writer, named, origin.spec, bits, progress)
        if isinstance(taken.expected, ReferenceOutputs):
            _measure_rounding(taken.expected, replace(prepared, **rounded), options.precision)
    content = msgspec.json.format(msgspec.json.encode(verification))
    table = writer.add(content, folder="report", name="verification", suffix=".json")
    return ExportedNetwork(origin, graphs, table, features)


def _store_floats(writer: Writer, parts: Mapping[str, Graph], spec: Spec) -> dict[str, GraphEntry]:
    """Write graphs, and return their manifest entries with probes."""
    inputs = [condition.input for condition in spec.conditions]
    entries = {part: describe(graph, *store(writer, graph, part), conditions=inputs) for part, graph in parts.items()}
    return {part: add_probe(writer, entry, parts[part], spec) for part, entry in entries.items()}


def _store_integers(
    writer: Writer, parts: Mapping[str, Graph], spec: Spec, bits: Bits, progress: Progress
) -> tuple[dict[str, GraphEntry], dict[str, Graph]]:
    """Write graphs with weights in integers. Return their manifest entries, and the graphs as they were written."""
    inputs = [condition.input for condition in spec.conditions]
    entries, written = dict[str, GraphEntry](), dict[str, Graph]()
    for part, graph in parts.items():
        stored = store_quantized(writer, graph, part, bits if part == "body" else 8)
        written[part] = stored.graph
        entries[part] = describe(graph, stored.file, stored.data, conditions=inputs)
        progress("weights", len(entries), len(parts))
    return entries, written


def _measure_rounding(expected: "ReferenceOutputs", rounded: PreparedDenoiser, precision: ExportPrecision) -> None:
    """Log how far the outputs of the written graphs are from the source's, at the noisiest and the cleanest time that
    was verified: near pure noise many networks return their input. Raises UserError if they have little in common."""
    from fewstep.export.verification.bisect import open_prepared

    by_time = {
        float(time.flat[0]): (number, row)
        for number, point in enumerate(expected.points)
        for row, time in enumerate(point.feeds[TIME])
    }
    ends = {time: by_time[time] for time in (max(by_time), min(by_time))}
    run = open_prepared(rounded)
    returned = {number: run(expected.points[number].feeds)[OUTPUT] for number, _ in ends.values()}
    ratios = {
        time: measure_ratio(expected.outputs[number][row], returned[number][row], expected.name)
        for time, (number, row) in ends.items()
    }
    (first, ratio), *others = ratios.items()
    more = "".join(f", and {ratio:.1f} dB at time {time:g}" for time, ratio in others)
    LOG.warning(ROUNDED, expected.name, precision, ratio, f"time {first:g}", more)


def _convert_to_float16(writer: Writer, bodies: Sequence[Graph]) -> list[Graph]:
    """Convert bodies to float16. (Conditioner and prologue stay float32, since they run only once per call.)"""
    half = [drop_unused(to_half(body, FLOAT16)) for body in bodies]
    large = [any(place_of(array) is not None for array in body.constants.values()) for body in bodies]
    if any(large):
        half = list(store_weights(writer, *half))
        for body in bodies:
            release(body)
    return half


PACKAGES = ("fewstep", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that create and verify graphs."""
    return {package: version for package in PACKAGES if (version := version_of(package))}
