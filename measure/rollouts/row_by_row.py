"""Graphs that run one row of a batch at a time, so that the result of a row does not depend on other rows.

A backend may sum in another order for another number of rows. For onnxruntime's float kernels on x86 this was never
observed, but it is not guaranteed.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.graph import BATCH, Value
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.bundle.manifest import TensorEntry
from fewstep.runtime.sampling.sampler import Sampler


def run_row_by_row(graph: LoadedGraph, inputs: Iterable[Value | TensorEntry]) -> LoadedGraph:
    """Return a graph that calls the given one once for each row, and joins the results along the first axis. The result
    of a single row is returned without a copy, since joining large activations takes a third of the graph's own time.

    The rows are those of the inputs whose first axis is the batch. Without one, the graph takes a single sample, as the
    decoder of a recorded pipeline does, and the inputs with a first axis of 1 have the rows. All other inputs, such as
    the range group, are passed to each call unchanged.
    """
    first_axes = {entry.name: entry.shape[0] for entry in inputs if entry.shape}
    rows = BATCH if BATCH in first_axes.values() else 1
    batched = frozenset(name for name, size in first_axes.items() if size == rows)

    def run(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        count = next(len(value) for name, value in feeds.items() if name in batched)
        if count == 1:
            return graph(feeds)
        results: dict[str, NDArray[np.float32]] = {}
        filled: dict[str, int] = {}
        for row in range(count):
            alone = {name: value[row : row + 1] if name in batched else value for name, value in feeds.items()}
            for name, result in graph(alone).items():
                size = len(result)  # more than 1 where heads or tokens are merged with the batch
                start = filled.get(name, 0)
                if name not in results:  # filled in place: joining a list of parts would hold the data twice
                    results[name] = np.empty((count * size, *result.shape[1:]), result.dtype)
                elif start + size > len(results[name]):  # the number of rows that are routed to a layer varies
                    more = np.empty(((count - row) * size, *result.shape[1:]), result.dtype)
                    results[name] = np.concatenate((results[name][:start], more))
                results[name][start : start + size] = result
                filled[name] = start + size
        return {name: value[: filled[name]] for name, value in results.items()}

    return run


def with_row_by_row_body(sampler: Sampler) -> Sampler:
    """Return a sampler whose body runs one row of a batch at a time, so that all activations in memory belong to one
    row."""
    network = sampler.network()
    *earlier, last = map(
        run_row_by_row, (*network.earlier, network.graph), [entry.inputs for entry in network.body.graphs]
    )
    return sampler.with_network_parts(graph=last, earlier=tuple(earlier))


def with_row_by_row_prologue(sampler: Sampler) -> Sampler:
    """Return a sampler whose conditioner and prologue run one row at a time, so that a trajectory depends, bitwise,
    only on its seed. The body is unchanged, since the activations are counted with a separately opened one."""
    network, manifest = sampler.network(), sampler.bundle.manifest
    conditioner, prologue = network.conditioner, network.prologue
    if conditioner is not None and manifest.conditioner is not None:
        conditioner = run_row_by_row(conditioner, manifest.conditioner.inputs)
    if prologue is not None and manifest.prologue is not None:
        prologue = run_row_by_row(prologue, manifest.prologue.inputs)
    return sampler.with_network_parts(conditioner=conditioner, prologue=prologue)
