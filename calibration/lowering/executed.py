"""What really runs in int8, told by OpenVINO of the graph that its CPU plugin makes of the one it is given."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewstep.calibration.lowering.coverage import MULTIPLY
from fewstep.graph.extents import at_sizes
from fewstep.graph.graph import BATCH, Graph
from fewstep.graph.io import save
from fewstep.runtime.backends.openvino import OpenVino, read

MULTIPLYING = ("Convolution", "FullyConnected", "MatMul")  # its kinds of layers that have integer kernels
INTEGER = ("u8", "i8")


def integer_operations(graph: Graph) -> frozenset[str]:
    """Names of the tensors that integer kernels make, in a graph compiled for one usual sample on this CPU.

    What is fused into a kernel counts for that kernel: the names are those of the multiplying operations themselves.
    """
    weighted = {f"weighted{i}": node.output for i, node in enumerate(graph.nodes) if node.op in MULTIPLY}
    labels = {made: label for label, made in weighted.items()}
    labelled = tuple(replace(node, name=labels.get(node.output, node.name)) for node in graph.nodes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        save(replace(graph, nodes=labelled), path)
        backend = OpenVino(cached=False)
        core = backend.core()
        model = read(core, path)
        inputs = at_sizes(graph).inputs
        shapes = {v.name: [1 if size == BATCH else int(size) for size in v.shape] for v in inputs}
        layers = backend.compile(core, model, graph.name, shapes).get_runtime_model().get_ops()
        ran = [label for layer in layers if _is_integer(layer) for label in _sources(layer)]
        del layers, model  # they read the file until they go
    return frozenset(weighted[label] for label in ran if label in weighted)


def _is_integer(layer: Any) -> bool:
    told = layer.get_rt_info()
    kind, precision = (told[key].astype(str) for key in ("layerType", "runtimePrecision"))
    return kind in MULTIPLYING and precision in INTEGER


def _sources(layer: Any) -> Iterator[str]:
    """The names of the operations that went into a layer; OpenVINO marks parts of one behind a slash."""
    yield from (name.partition("/")[0] for name in layer.get_rt_info()["originalLayersNames"].astype(str).split(","))
