"""Trace the other networks of a pipeline, compare them with torch, and write them into the bundle.

Only one network is in memory at a time: text encoders are often the largest part of a pipeline.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewstep.export.batches import BATCH_LIMIT, TRACE_BATCH
from fewstep.export.verification.difference import measure_difference
from fewstep.graph.files.commit import Writer
from fewstep.graph.files.io import offload_weights, store
from fewstep.graph.files.weights import collect_garbage
from fewstep.graph.graph import BATCH, Array, Graph
from fewstep.graph.passes.constants import drop_unused, fold_constants
from fewstep.graph.passes.shapes import fold_shapes
from fewstep.graph.session import open_session
from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.bundle import manifest
from fewstep.runtime.bundle.manifest import TensorEntry

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger("fewstep")
TOLERANCE = 1e-4  # relative to the largest absolute value of an output
COMPANION = "%s: within %.1e of torch, in batches of %s"  # a line of the log
FITS = "give a folder whose components belong together"


class CompanionFailure(UserError):
    """The module of a companion fails in torch with valid inputs."""


class GraphFailure(UserError):
    """The module of a companion cannot be traced, or its graph computes something else."""


@dataclass(frozen=True)
class Companion:
    """A network besides the denoiser: a module whose `forward(*inputs)` returns its outputs in order.

    inputs, outputs: the ports of the bundle's graph, in the order of the module's arguments and results.
    feeds: returns valid inputs by name, for a batch size.
    batches: the batch sizes at which the graph is compared with torch.
    weights: bytes of the weights in float32.
    check: raises CompanionFailure for a loaded module that is not the network of its pipeline in a bundle.
    """

    name: str
    load: "Callable[[], torch.nn.Module]"
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    feeds: Callable[[int], Mapping[str, Array]]
    batches: tuple[int, ...] = (1, 3, 4)
    weights: int = 0
    check: "Callable[[torch.nn.Module], None] | None" = None


@dataclass(frozen=True)
class CompanionGraph:
    """A companion in the bundle. `relative` is the largest measured difference from torch, and `run` computes the
    graph."""

    graph: manifest.GraphEntry
    relative: float
    run: Callable[[Mapping[str, Array]], dict[str, Array]]


def add_companion(writer: Writer, companion: Companion) -> CompanionGraph:
    """Trace a companion, verify it at several batch sizes, and add it to the bundle. Raises CompanionFailure if its
    module fails, GraphFailure if it cannot be traced or a tensor differs, and UserError for values that are not finite.

    torch's weights of a large network are freed before the graph runs, as in the export of a denoiser.
    """
    module = companion.load().eval().cpu().float().requires_grad_(False)
    if companion.check is not None:
        companion.check(module)
    feeds = {batch: companion.feeds(batch) for batch in companion.batches}
    expected = {batch: _run_torch(module, companion, inputs) for batch, inputs in feeds.items()}
    (graph,) = offload_weights(writer, _trace(module, companion))
    del module
    collect_garbage(graph)
    run = open_session(graph)
    worst = 0.0
    for batch, inputs in feeds.items():
        outputs = run(inputs)
        for tensor, value in zip(companion.outputs, expected[batch], strict=True):
            relative = measure_difference(value, outputs[tensor.name]).relative
            if not relative <= TOLERANCE:
                raise GraphFailure(
                    f"{companion.name}: the exported graph differs from torch in {tensor.name!r} by {relative:.2g}, "
                    f"batch {batch}",
                    "report the pipeline: this is a bug in fewstep",
                )
            worst = max(worst, relative)
    LOG.info(COMPANION, companion.name, worst, companion.batches)
    file, data = store(writer, graph, companion.name.replace(" ", "-"))
    return CompanionGraph(manifest.GraphEntry(file, companion.inputs, companion.outputs, data), worst, run)


def _run_torch(module: "torch.nn.Module", companion: Companion, feeds: Mapping[str, Array]) -> list[Array]:
    """Return torch's outputs for the feeds. Raises CompanionFailure naming the companion whose module fails, and
    UserError for values that are not finite."""
    import torch

    from fewstep.export.error_text import error_location

    inputs = [torch.from_numpy(feeds[tensor.name]) for tensor in companion.inputs]
    try:
        with torch.no_grad():
            outputs = module(*inputs)
    except UserError as error:  # already complete
        raise CompanionFailure(error.what, error.fix) from error
    except Exception as error:
        shapes = " and ".join(
            f"{tensor.name} {list(x.shape)}" for tensor, x in zip(companion.inputs, inputs, strict=True)
        )
        what = f"{companion.name} fails in torch with {shapes}: {first_line(error)}{error_location(error)}"
        raise CompanionFailure(what, FITS) from error
    values = [value.numpy() for value in outputs]
    for tensor, value in zip(companion.outputs, values, strict=True):
        if not np.isfinite(value).all():
            what = f"{companion.name} returns {tensor.name!r} with values that are not finite"
            raise UserError(what, "check its weights")
    return values


def _trace(module: "torch.nn.Module", companion: Companion) -> Graph:
    """Return a text encoder or autoencoder as a graph whose batch size is free, unless its inputs have one."""
    import torch

    from fewstep.export.trace import check_weights
    from fewstep.export.tracing.capture import capture

    check_weights(module)
    is_free = companion.inputs[0].shape[0] == BATCH
    feeds = companion.feeds(TRACE_BATCH if is_free else 1)
    example = tuple(torch.from_numpy(feeds[tensor.name]) for tensor in companion.inputs)
    axes = {0: torch.export.Dim(BATCH, max=BATCH_LIMIT)} if is_free else {}
    shapes = (tuple(axes for _ in example),)  # forward takes them as *arguments
    inputs, outputs = ([tensor.name for tensor in ports] for ports in (companion.inputs, companion.outputs))
    try:
        graph, _ = capture(module, example, shapes, inputs, outputs)
    except UserError as error:
        raise GraphFailure(error.what, error.fix) from error
    for kind, wanted, own in (("takes", companion.inputs, graph.inputs), ("returns", companion.outputs, graph.outputs)):
        for tensor, value in zip(wanted, own, strict=True):
            if value.shape != tensor.shape:
                raise UserError(
                    f"{companion.name} {kind} {tensor.name!r} of shape {list(value.shape)}, but the denoiser needs "
                    f"{list(tensor.shape)}",
                    FITS,
                )
    return drop_unused(fold_shapes(fold_constants(graph)))
