"""Trace the other networks of a pipeline, compare them with torch, and write them into the bundle.

Only one network is in memory at a time: text encoders are often the largest part of a pipeline.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from fewstep.export.batches import BATCH_LIMIT, TRACE_BATCH
from fewstep.export.verification.difference import measure_difference
from fewstep.export.verification.stored import measure_ratio
from fewstep.export.weights_only import store_quantized
from fewstep.graph.extents import dimension_name, extents_of, probe_sizes
from fewstep.graph.files.commit import Writer
from fewstep.graph.files.io import EXTERNAL_ABOVE, offload_weights, store
from fewstep.graph.files.weights import collect_garbage
from fewstep.graph.graph import BATCH, Array, Graph, Value
from fewstep.graph.passes.constants import drop_unused, fold_constants
from fewstep.graph.passes.shapes import fold_shapes
from fewstep.graph.resource_needs import format_duration
from fewstep.graph.session import open_session
from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.bundle import manifest
from fewstep.runtime.bundle.manifest import Description, TensorEntry
from fewstep.runtime.bundle.platforms import Bits
from fewstep.runtime.kinds.sizes import apply_sizes
from fewstep.runtime.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger("fewstep")
TOLERANCE = 1e-4  # relative to the largest absolute value of an output
OF_LARGE = (1, 2)  # batch sizes at which a network with weights in a file of their own is compared
WORTH_SAYING = 60.0  # seconds
ROUNDED = "the %s: weights rounded to the nearest of %d bits; its %s is %.1f dB above their error"
COMPANION = "%s: within %.1e of torch, at %s"  # a line of the log
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
    at: returns it for x of another shape; None if it is known for one shape only. takes: x and its free sizes, if the
        ports have those (`with_free_sizes`).
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
    at: "Callable[[tuple[int, ...]], Companion] | None" = None
    takes: Description | None = None

    def resize(self, sizes: Mapping[str, int]) -> "Companion":
        """Return it for one choice of the free sizes."""
        assert self.at is not None and self.takes is not None, "it has free sizes"
        return self.at(apply_sizes(self.takes, sizes).x_shape)


@dataclass(frozen=True)
class CompanionGraph:
    """A companion in the bundle. `relative` is the largest measured difference from torch, and `run` computes the
    graph."""

    graph: manifest.GraphEntry
    relative: float
    run: Callable[[Mapping[str, Array]], dict[str, Array]]


def add_companion(
    writer: Writer, companion: Companion, progress: Progress = SILENT, bits: Bits | None = None
) -> CompanionGraph:
    """Trace a companion, verify it at several batch sizes, and add it to the bundle. Raises CompanionFailure if its
    module fails, GraphFailure if it cannot be traced or a tensor differs, and UserError for values that are not finite.

    torch's weights of a large network are freed before the graph runs, as in the export of a denoiser. Its batch sizes
    are the two smallest of any that show whether samples mix.

    bits: those of the weights, if they become integers; a graph without such weights stays float32.
    """
    from fewstep.export.tracing.weights.stored_halves import to_float32  # imports torch

    module = to_float32(companion.load().eval()).requires_grad_(False)
    if companion.check is not None:
        companion.check(module)
    feeds = _comparisons(companion)
    steps: Callable[[int], None] = partial(progress, companion.name, total=2 + 2 * len(feeds))
    expected = _run_all(module, companion, feeds, steps)
    graph = _trace(module, companion)
    if bits is None:
        (graph,) = offload_weights(writer, graph)
    del module
    collect_garbage(graph)
    steps(len(feeds) + 1)
    run = open_session(graph)
    worst = _compare_all(run, companion, feeds, expected, steps)
    LOG.info(COMPANION, companion.name, worst, "; ".join(feeds))
    name = companion.name.replace(" ", "-")
    if bits is None:
        file, data = store(writer, graph, name)
    else:
        del run
        stored = store_quantized(writer, graph, name, bits)
        run = open_session(stored.graph)
        if stored.is_rounded:
            first = next(iter(feeds))
            _log_rounding(companion, bits, expected[first], run(feeds[first]))
        file, data = stored.file, stored.data
    steps(2 + 2 * len(feeds))
    return CompanionGraph(manifest.GraphEntry(file, companion.inputs, companion.outputs, data), worst, run)


def _run_all(
    module: "torch.nn.Module",
    companion: Companion,
    feeds: Mapping[str, Mapping[str, Array]],
    steps: Callable[[int], None],
) -> dict[str, list[Array]]:
    """Return torch's outputs by the names of the comparisons."""
    expected = dict[str, list[Array]]()
    elements = [sum(value.size for value in inputs.values()) for inputs in feeds.values()]
    for where, inputs in feeds.items():
        started = perf_counter()
        expected[where] = _run_torch(module, companion, inputs)
        if len(expected) == 1:
            _warn_of_time(companion.name, 2 * sum(elements) / elements[0] * (perf_counter() - started))
        steps(len(expected))
    return expected


def _compare_all(
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    companion: Companion,
    feeds: Mapping[str, Mapping[str, Array]],
    expected: Mapping[str, list[Array]],
    steps: Callable[[int], None],
) -> float:
    """Return the largest difference of a graph's outputs from torch's. Raises GraphFailure naming a tensor that
    differs."""
    worst = 0.0
    for done, (where, inputs) in enumerate(feeds.items(), len(feeds) + 2):
        outputs = run(inputs)
        for tensor, value in zip(companion.outputs, expected[where], strict=True):
            relative = measure_difference(value, outputs[tensor.name]).relative
            if not relative <= TOLERANCE:
                raise GraphFailure(
                    f"{companion.name}: the exported graph differs from torch in {tensor.name!r} by {relative:.2g}, "
                    f"{where}",
                    "report the pipeline: this is a bug in fewstep",
                )
            worst = max(worst, relative)
        steps(done)
    return worst


def _warn_of_time(name: str, seconds: float) -> None:
    """Say how long the verification takes, if it takes long."""
    if seconds > WORTH_SAYING:
        LOG.warning("verifying the %s takes about %s", name, format_duration(seconds))


def _log_rounding(companion: Companion, bits: Bits, expected: Sequence[Array], rounded: Mapping[str, Array]) -> None:
    """Log how far the outputs of a written graph are from torch's. Raises UserError if they have little in common."""
    for tensor, exact in zip(companion.outputs, expected, strict=True):
        if exact.dtype.kind == "f":
            ratio = measure_ratio(exact, rounded[tensor.name], f"the {companion.name}")
            LOG.warning(ROUNDED, companion.name, bits, tensor.name, ratio)


def with_free_sizes(companion: Companion, takes: Description) -> Companion | None:
    """Return a companion whose ports have the free sizes of x in place of numbers. None if x has none, or if the
    companion is known for one shape only."""
    sizes = tuple(size for size in takes.sizes if size.axis is not None)
    if companion.at is None or not sizes:
        return None
    takes = replace(takes, sizes=sizes, conditions=())
    points = probe_sizes(extents_of(takes))
    free = dataclasses.replace(companion, takes=takes)
    resized = [free.resize(point) for point in points]

    def name_axes(ports: Sequence[tuple[TensorEntry, ...]]) -> tuple[TensorEntry, ...]:
        shapes = [zip(*(tensor.shape for tensor in port), strict=True) for port in zip(*ports, strict=True)]
        named = (tuple(dimension_name(sizes, points) for sizes in shape) for shape in shapes)
        return tuple(replace(port, shape=shape) for port, shape in zip(ports[0], named, strict=True))

    inputs, outputs = (
        name_axes([record.inputs for record in resized]),
        name_axes([record.outputs for record in resized]),
    )
    return dataclasses.replace(free, inputs=inputs, outputs=outputs)


def _comparisons(companion: Companion) -> dict[str, Mapping[str, Array]]:
    """Return the feeds at which a graph is compared with torch, each with its name. Other sizes have no more elements
    than usual, or few more, since the memory of attention grows with their square."""
    batches = companion.batches if companion.weights <= EXTERNAL_ABOVE else OF_LARGE[: len(companion.batches)]
    feeds = {f"batch {batch}": companion.feeds(batch) for batch in batches}
    if companion.takes is not None:
        from fewstep.export.verification.points import sizes_to_verify

        for sizes in sizes_to_verify(companion.takes, limit=1)[1:]:
            where = ", ".join(f"{name} {size}" for name, size in sizes.items())
            feeds[where] = companion.resize(sizes).feeds(1)
    return feeds


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
    """Return a text encoder or autoencoder as a graph whose batch size is free, unless its inputs have one, and so are
    the sizes that its ports name."""
    import torch

    from fewstep.export.free_sizes import symbolic_axes, trace_sizes
    from fewstep.export.trace import check_weights
    from fewstep.export.tracing.capture import capture

    check_weights(module)
    is_free = companion.inputs[0].shape[0] == BATCH
    takes = companion.takes
    traced = companion if takes is None else companion.resize(trace_sizes(takes))
    feeds = traced.feeds(TRACE_BATCH if is_free else 1)
    example = tuple(torch.from_numpy(feeds[tensor.name]) for tensor in companion.inputs)
    batch = {0: torch.export.Dim(BATCH, max=BATCH_LIMIT)} if is_free else {}
    axes = symbolic_axes(() if takes is None else takes.sizes)
    shapes = (tuple({**batch, **axes(tensor.shape[1:])} for tensor in companion.inputs),)  # as *arguments
    inputs, outputs = ([tensor.name for tensor in ports] for ports in (companion.inputs, companion.outputs))
    try:
        graph, _ = capture(module, example, shapes, inputs, outputs)
    except UserError as error:
        raise GraphFailure(error.what, error.fix) from error
    if takes is not None:
        graph = _name_sizes(graph, companion, takes)
    for kind, wanted, own in (("takes", companion.inputs, graph.inputs), ("returns", companion.outputs, graph.outputs)):
        for tensor, value in zip(wanted, own, strict=True):
            if value.shape != tensor.shape:
                raise UserError(
                    f"{companion.name} {kind} {tensor.name!r} of shape {list(value.shape)}, but the denoiser needs "
                    f"{list(tensor.shape)}",
                    FITS,
                )
    return drop_unused(fold_shapes(fold_constants(graph)))


def _name_sizes(graph: Graph, companion: Companion, takes: Description) -> Graph:
    """Return a graph whose free axes have the names of the ports, instead of the exporter's."""
    ports = {tensor.name: tensor.shape for tensor in (*companion.inputs, *companion.outputs)}

    def name_axes(value: Value) -> Value:
        sizes = zip(value.shape, ports[value.name], strict=True)
        return dataclasses.replace(value, shape=tuple(own if isinstance(own, int) else name for own, name in sizes))

    return dataclasses.replace(graph.with_ports(name_axes), extents=extents_of(takes))
