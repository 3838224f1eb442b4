"""Check that an inference engine computes a graph as it was computed when it was exported.

An export stores a probe of each small float graph in its manifest entry: for two calls with synthetic inputs, the
largest value and a few random projections of each output. On every other machine, and after every update of the engine,
the first load repeats these calls (`refuse_wrong`), and `fewstep verify` always does. The user's cache folder stores
that a graph agrees.

Graphs of int8 bodies have no probe: kernels of different processors round differently by as much as errors change.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import inf, sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.manifest import GraphEntry, TensorEntry
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import default_sizes, resolve_dimension
from fewstep.runtime.machine import cache
from fewstep.runtime.machine.cpu import this_cpu

SCHEMA = 2  # schema of the cached results
BATCH = "batch"
CALLS = 2  # two, since one may differ legitimately: at an input on the edge of an argmax or of a rounding
PROJECTIONS = 4  # per output; a wrong part that one projection misses by chance is in the others
LARGEST = 1e-4  # allowed difference, relative to the largest output; engines that agree differ by 1e-7 to 1e-5

Feeds = dict[str, NDArray[np.generic]]
Probe = tuple[tuple[float, ...], ...]  # for each call, the numbers of all outputs


def measure_probe(graph: GraphEntry, network: LoadedGraph, sizes: Mapping[str, int], batch: int = 1) -> Probe:
    """Return the probe of a graph on an engine: for each call and output, the largest magnitude, then `PROJECTIONS`
    sums of its values with random signs, divided by the square root of their number.

    sizes: the free sizes. batch: the rows of a call, all equal; only the first row of the outputs counts.
    """
    calls = []
    for seed in range(CALLS):
        feeds = probe_feeds(graph, {BATCH: 1, **sizes}, seed)
        for tensor in graph.inputs:
            if tensor.shape[:1] == (BATCH,):
                feeds[tensor.name] = np.repeat(feeds[tensor.name], batch, axis=0)
        outputs = network(feeds)
        rows_of = {output.name: slice(1 if output.shape[:1] == (BATCH,) else None) for output in graph.outputs}
        calls.append(tuple(number for name, rows in rows_of.items() for number in _compress(outputs[name][rows])))
    return tuple(calls)


def probe_difference(graph: GraphEntry, probe: Probe) -> float:
    """Return the largest difference of a probe from the stored one, relative to the largest magnitude of each output,
    in the call that agrees better."""
    if len(graph.probe) != len(probe):  # a damaged manifest, or one of a later version
        return inf
    return min(_row_difference(stored, measured) for stored, measured in zip(graph.probe, probe, strict=True))


def refuse_wrong(bundle: Bundle, graph: GraphEntry, network: LoadedGraph, engine: str, fix: str) -> None:
    """Raise UserError if an engine computes a graph differently from its probe. `engine` is its name and version.

    A graph that agrees is not run again on this machine, unless the engine changes.
    """
    if not graph.probe or cache.read("agreement", key := agreement_key(bundle, graph, engine)) is not None:
        return
    difference = probe_difference(graph, measure_probe(graph, network, sizes_of_probe(bundle)))
    if not difference <= LARGEST:
        raise wrong_result(engine, graph, difference, fix)
    cache.store("agreement", key, b"%.3g" % difference)


def wrong_result(engine: str, graph: GraphEntry, difference: float, fix: str) -> UserError:
    """Return the error for an engine that computes a graph incorrectly."""
    what = f"{engine} computes {graph.file} incorrectly on this machine: it differs from the export by {difference:.2g}"
    return UserError(f"{what} of the largest output", fix)


def sizes_of_probe(bundle: Bundle) -> dict[str, int]:
    """Return the free sizes at which the probes of a bundle were measured."""
    return default_sizes(bundle.manifest.x_shape, bundle.manifest.sizes)


def agreement_key(bundle: Bundle, graph: GraphEntry, *engine: str) -> str:
    """Return the name under which the agreement of a graph on an engine is cached."""
    hashes = [bundle.manifest.files.get(file) for file in (graph.file, *graph.data)]
    facts = (SCHEMA, hashes, engine, this_cpu(), bundle.manifest.sizes)
    return sha256(msgspec.json.encode(facts)).hexdigest()[:32]


def probe_feeds(graph: GraphEntry, sizes: Mapping[str, int], seed: int) -> Feeds:
    """Return synthetic inputs of a graph by name: times from 0 to 1, zeros for types other than float (an index or a
    mask), and noise of variance 1. The bits are equal on every machine: only exact operations make them."""
    bits = np.random.PCG64(seed)  # numpy promises its stream, unlike that of distributions
    return {tensor.name: _make_input(tensor, sizes, bits) for tensor in graph.inputs}


def _make_input(tensor: TensorEntry, sizes: Mapping[str, int], bits: np.random.PCG64) -> NDArray[np.generic]:
    shape = [resolve_dimension(size, sizes) for size in tensor.shape]
    dtype = np.dtype(tensor.dtype)
    if dtype.kind != "f":
        return np.zeros(shape, dtype)
    uniform = (bits.random_raw(int(np.prod(shape))).reshape(shape) >> np.uint64(40)) * 2.0**-24
    return (uniform if tensor.role == "time" else (2 * uniform - 1) * sqrt(3)).astype(dtype)


def _compress(value: NDArray[np.generic]) -> list[float]:
    """Return the largest magnitude of an output, and its projections."""
    flat = value.astype(np.float64).ravel()
    bits = np.random.PCG64(CALLS).random_raw(flat.size) if flat.size else np.zeros(0, np.uint64)
    signs = (((bits >> np.uint64(bit)) & np.uint64(1)).astype(np.float64) * 2 - 1 for bit in range(PROJECTIONS))
    with np.errstate(invalid="ignore"):  # of infinities
        sums = [float((sign * flat).sum()) / sqrt(max(flat.size, 1)) for sign in signs]
    return [float(f"{number:.8g}") for number in (np.abs(flat).max(initial=0), *sums)]


def _row_difference(stored: Sequence[float], measured: Sequence[float]) -> float:
    if len(stored) != len(measured) or not np.isfinite(measured).all():
        return inf
    first, second = (np.reshape(numbers, (-1, 1 + PROJECTIONS)) for numbers in (stored, measured))
    scale = np.where(first[:, :1] > 0, first[:, :1], 1.0)
    return float((np.abs(first - second) / scale).max(initial=0))
