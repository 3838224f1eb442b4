"""Check that OpenVINO computes a float graph correctly. Each machine compares two calls, once.

They are compared with the graph's probe (`probe.py`). A graph without one, such as that of a large network, is compared
with onnxruntime. The user's cache folder stores the result, so later loads cost nothing. Without probe and onnxruntime,
operations that OpenVINO is known to compute incorrectly are refused by name.
"""

import logging
import mmap
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Arrays, LoadedGraph, body_with_graph, find_graph
from fewstep.runtime.backends.probe import (
    CALLS,
    agreement_key,
    measure_probe,
    probe_difference,
    sizes_of_probe,
    wrong_result,
)
from fewstep.runtime.backends.probe import LARGEST as PROBE_LARGEST
from fewstep.runtime.bundle.manifest import GraphEntry, TensorEntry
from fewstep.runtime.bundle.networks import shared_graphs
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import default_sizes, resolve_dimension
from fewstep.runtime.machine import cache

if TYPE_CHECKING:
    from fewstep.runtime.backends.openvino import OpenVino

LOG = logging.getLogger("fewstep")
FLOAT = "float32"  # the body that is compared, also for int8 bodies
LARGEST = 1e-3  # allowed difference relative to the largest output; engines that agree differ by 1e-6 to 1e-5
# A Resize that shrinks differs by 60 to 170 % with antialias=1, and by 3 to 9 % with exclude_outside=1. (Measured
# against onnxruntime 1.31.1 in OpenVINO 2026.4.1, on the CPU.) The bytes are these attributes in an ONNX file.
WRONG = {flag: bytes([len(flag), *flag.encode(), 0x18, 1]) for flag in ("antialias", "exclude_outside")}
# Engines round what products with integer weights read to 8 bits, or do not: FLUX.2 klein differs by 1 to 3 %.
LARGEST_OF_INTEGERS, INTEGER_WEIGHTS = 0.05, (b"DequantizeLinear", b"MatMulNBits")
FIX = "run the bundle on onnxruntime (--backend onnxruntime), or write the operation differently and export again"


Feeds = dict[str, NDArray[np.generic]]


def check(engine: "OpenVino", bundle: Bundle, name: str, open: Callable[[str], LoadedGraph]) -> None:
    """Raise UserError if OpenVINO computes the float graph `name` incorrectly: a body, or a graph that runs once per
    call.

    For an int8 body, the float32 body that it was made from is compared. If the bundle has none, only the operations of
    the int8 body are checked. If the float32 body has weights in files, only its operations are checked too: compiling
    it would take several times the memory and the time of the int8 body. Calibration has compared its parts, and
    `fewstep verify --engines` compares both bodies. `open` loads a graph by its name into the engine in float32.
    """
    body = body_with_graph(bundle, name)
    is_float = body is None or body.precision == FLOAT
    is_shared = name in shared_graphs(bundle.manifest)
    judged = FLOAT if not is_float and not is_shared and FLOAT in bundle.manifest.bodies else name
    graph = find_graph(bundle, judged)
    key = agreement_key(bundle, graph, "openvino", engine.version, engine.device)
    if cache.read("agreement", key) is not None:
        return
    if graph.probe and (is_float or not graph.data):
        distance = probe_difference(graph, measure_probe(graph, open(judged), sizes_of_probe(bundle), engine.batch))
        if not distance <= PROBE_LARGEST:
            raise wrong_result(f"OpenVINO {engine.version}", graph, distance, FIX)
        if engine.cached:
            cache.store("agreement", key, b"%.3g" % distance)
        return
    wrong = find_wrong_operations(bundle.graph(graph))
    is_compared = is_float or (judged == FLOAT and not graph.data)
    difference = _measure_difference(engine, bundle, judged, open) if is_compared else None
    if difference is None:
        if wrong:
            raise UserError(
                f"{graph.file} has {wrong}, which OpenVINO is known to compute incorrectly",
                FIX if graph.data else f"pip install 'fewstep[cpu]' to compare it with onnxruntime, or {FIX}",
            )
    elif difference <= (LARGEST_OF_INTEGERS if _has_integer_weights(bundle.graph(graph)) else LARGEST):
        if engine.cached:
            cache.store("agreement", key, b"%.3g" % difference)
    else:
        suspect = f", probably in {wrong}" if wrong else ""
        raise UserError(
            f"OpenVINO {engine.version} computes {graph.file} incorrectly{suspect}: it differs from onnxruntime by"
            f" {difference:.2g} of the largest output",
            FIX,
        )


def _has_integer_weights(file: Path) -> bool:
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(operation) >= 0 for operation in INTEGER_WEIGHTS)


def find_wrong_operations(file: Path) -> str:
    """Return, as text, the operations in a graph's file that OpenVINO is known to compute incorrectly."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        flags = [flag for flag, written in WRONG.items() if data.find(written) >= 0]
    return f"Resize with {' and '.join(flags)}" if flags else ""


def _measure_difference(
    engine: "OpenVino", bundle: Bundle, name: str, open: Callable[[str], LoadedGraph]
) -> float | None:
    """Return the largest difference from onnxruntime relative to the largest output, in the call that agrees better.

    None if onnxruntime is missing, cannot load the graph, or returns an output that is not finite.
    """
    graph = find_graph(bundle, name)
    sizes = {"batch": engine.batch, **default_sizes(bundle.manifest.x_shape, bundle.manifest.sizes)}
    calls = [random_feeds(graph, sizes, seed) for seed in range(CALLS)]
    try:
        expected = _reference_outputs(engine.threads, bundle, graph, calls)
    except UserError as error:
        LOG.debug("not compared with onnxruntime: %s", error)
        return None
    network = open(name)
    finite = [all(np.isfinite(value).all() for value in name.values()) for name in expected]
    differences = [
        relative_difference(outputs, network(feeds))
        for outputs, feeds, is_finite in zip(expected, calls, finite, strict=True)
        if is_finite
    ]
    return min(differences, default=None)


def _reference_outputs(threads: int, bundle: Bundle, graph: GraphEntry, calls: list[Feeds]) -> list[Arrays]:
    """Return onnxruntime's results of the calls. Its session is freed before OpenVINO opens the graph."""
    from fewstep.runtime.backends.onnxruntime import OnnxRuntime  # imported only for a comparison

    reference = OnnxRuntime(threads=threads).load_graph(bundle, graph)
    return [reference(feeds) for feeds in calls]


def random_feeds(graph: GraphEntry, sizes: dict[str, int], seed: int) -> Feeds:
    """Return random inputs of a graph by name, determined by the seed."""
    rng = np.random.default_rng(seed)
    return {port.name: _random_input(port, sizes, rng) for port in graph.inputs}


def _random_input(tensor: TensorEntry, sizes: dict[str, int], rng: np.random.Generator) -> NDArray[np.generic]:
    """Return noise, times from 0 to 1, or zeros for types other than float: an index or a mask."""
    shape = [resolve_dimension(size, sizes) for size in tensor.shape]
    dtype = np.dtype(tensor.dtype)
    if dtype.kind != "f":
        return np.zeros(shape, dtype)
    drawn = rng.uniform(size=shape) if tensor.role == "time" else rng.standard_normal(shape)
    return drawn.astype(dtype)


def relative_difference(expected: Arrays, computed: Arrays) -> float:
    """Return the largest difference relative to the largest value of the same output."""
    differences = []
    for name, value in expected.items():
        scale = float(np.abs(value).max(initial=0)) or 1.0
        differences.append(float(np.abs(computed[name].astype(np.float64) - value).max(initial=0)) / scale)
    return max(differences, default=0.0) if np.isfinite(differences).all() else inf
