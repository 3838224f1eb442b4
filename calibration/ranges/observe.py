"""Observe a prepared graph: which activations are counted, how they are made outputs, and their histograms by range
group."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.ranges.histogram import Histogram, make_histogram, merge_histograms
from fewstep.graph.graph import Graph
from fewstep.graph.passes.split_attention import split_attention
from fewstep.graph.selection import match_weighted_op
from fewstep.graph.session import open_session
from fewstep.graph.types import Types, infer_types
from fewstep.measure.rollouts.row_by_row import run_row_by_row
from fewstep.measure.rollouts.trajectories import BodyCall
from fewstep.plans.errors import UserError
from fewstep.plans.plan import group_of
from fewstep.runtime.backends import Arrays, LoadedGraph

LOG = logging.getLogger("fewstep")
CHECK_WEIGHTS = "check the weights that the denoiser was exported with"
Fault = str  # why the values of a tensor cannot be counted, e.g. "NaN"
Measured = Mapping[str, Histogram | Fault]  # by tensor
LISTED = 4  # names in a warning
MOVING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")  # outputs have the input's values


def tensors_to_observe(graph: Graph, no_floats: bool = False) -> tuple[str, ...]:
    """Return the inputs and outputs of every Conv, MatMul and Gemm with a constant weight, since these may be
    quantized.

    no_floats: whether to add all other float tensors, which engines without floats quantize too, except those that only
        rearrange another tensor.
    """
    ops = (match_weighted_op(node, graph) for node in graph.nodes)
    names = dict.fromkeys(name for op in ops if op for name in (op.x, op.name))
    if no_floats:
        types = infer_types(graph)
        made = (name for node in graph.nodes if node.op not in MOVING for name in node.outputs if name)
        ports = (value.name for value in graph.inputs)
        names |= dict.fromkeys(name for name in (*ports, *made) if _type_of(name, types) == np.float32)
    return tuple(names)


def channel_axes(graph: Graph) -> dict[str, int]:
    """Return the channel axis of each tensor that `tensors_to_observe` names. Omit a tensor that two operations read
    along different axes, or that is transposed first."""
    axes: dict[str, set[int]] = {}
    for op in filter(None, (match_weighted_op(node, graph) for node in graph.nodes)):
        if op.node.attributes.get("transA"):
            axes.setdefault(op.x, set()).update((0, op.channel_axis))
            continue
        for name in (op.x, op.name):
            axes.setdefault(name, set()).add(op.channel_axis)
    return {name: places.pop() for name, places in axes.items() if len(places) == 1}


def expose_tensors(graph: Graph, tensors: Iterable[str]) -> Graph:
    """Return the graph with `tensors` as additional outputs. Tensors that are inputs of the graph are skipped: they are
    in the feeds."""
    ports = {value.name for value in (*graph.inputs, *graph.outputs)}
    types = infer_types(graph)
    added = [name for name in dict.fromkeys(tensors) if name not in ports]
    for name in added:
        _type_of(name, types)
    return replace(graph, outputs=graph.outputs + tuple(types.values[name] for name in added))


def _type_of(name: str, types: Types) -> np.dtype[Any]:
    if name not in types.values:
        raise UserError(f"the type of tensor {name!r} cannot be inferred", "export the denoiser again")
    return types.values[name].dtype


def open_observed(graph: Graph, tensors: Sequence[str], threads: int = 0) -> LoadedGraph:
    """Open the graph to run row by row and to also return `tensors`. `threads` of 0 means `default_threads`.

    A call raises UserError naming the first tensor that is not finite, if an output is not finite.
    """
    watched = split_attention(expose_tensors(graph, tensors))
    session = run_row_by_row(open_session(watched, optimize=True, threads=threads), graph.inputs)

    def network(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        held = session(feeds)
        if not all(np.isfinite(held[value.name]).all() for value in graph.outputs):
            for name in tensors:
                if name in held and not np.isfinite(held[name]).all():
                    raise UserError(f"tensor {name!r} of the float denoiser is not finite", CHECK_WEIGHTS)
        return held

    return network


def measure_tensor(values: NDArray[np.float32], axis: int | None) -> Histogram | Fault | None:
    """Return the histogram of a tensor, or the problem of its values; None if it is empty."""
    if values.size == 0:
        return None
    try:
        return make_histogram(values, axis)
    except ValueError as error:
        return str(error)


@dataclass
class Counts:
    """Histograms of tensors by lambda group, to which evaluations are added.

    edges: the values of lambda between groups, as in `manifest.Body.groups`.
    axes: the channel axes, as returned by `channel_axes`. Channels of other tensors are not counted separately.
    samples: number of trajectories once all are counted.
    unseen: tensors of which no values were observed. They have no histograms.
    """

    tensors: tuple[str, ...]
    edges: tuple[float, ...]
    histograms: dict[tuple[str, int], Histogram] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    samples: int = 1
    unseen: tuple[str, ...] = ()

    @staticmethod
    def empty(graph: Graph, edges: tuple[float, ...], samples: int, no_floats: bool = False) -> "Counts":
        """Return empty counts of the tensors that a lowering of a prepared graph may quantize
        (`tensors_to_observe`)."""
        return Counts(tensors_to_observe(graph, no_floats), edges, axes=channel_axes(graph), samples=samples)

    def add(self, evaluation: BodyCall, seen: Measured | None = None) -> None:
        """Count the values of an evaluation's tensors. Skip empty tensors, e.g. of a layer without routed rows.

        `seen` are histograms that the network measured itself. Raises UserError naming the tensor and the step if a
        value is not finite.
        """
        step = evaluation.state.step
        group = group_of(step.lam, self.edges)
        held = {**evaluation.feeds, **evaluation.tensors}
        for name in self.tensors:  # sequential: threads mostly wait for the interpreter (measured)
            counted = measure_tensor(held[name], self.axes.get(name)) if seen is None else seen.get(name)
            if counted is None:
                continue
            if isinstance(counted, Fault):
                raise UserError(
                    f"tensor {name!r} has {counted} at step {evaluation.state.index + 1} (time {step.time:g})",
                    CHECK_WEIGHTS,
                )
            self.include({(name, group): counted})

    def include(self, others: Mapping[tuple[str, int], Histogram]) -> None:
        """Merge histograms of the same tensors into these, such as those counted by another process."""
        for key, seen in others.items():
            before = self.histograms.get(key)
            self.histograms[key] = seen if before is None else merge_histograms(before, seen)

    def fill_unseen_groups(self) -> "Counts":
        """Return counts in which every tensor has values in every group. If a tensor has no values in some groups,
        these groups get the merged values of its other groups. A tensor without values in any group is dropped, and
        the operations that read it stay in float. Warnings name the tensors of both cases."""
        groups = range(len(self.edges) + 1)
        seen = {name: [group for group in groups if (name, group) in self.histograms] for name in self.tensors}
        partly = {name: at_groups for name, at_groups in seen.items() if 0 < len(at_groups) < len(groups)}
        never = tuple(name for name, at_groups in seen.items() if not at_groups)
        if partly:
            LOG.warning(
                "activations without values at some steps use the ranges of other steps: %s",
                _join_names(tuple(partly)),
            )
        if never:
            LOG.warning(
                "activations without values at any step; the operations that read them stay in float: %s",
                _join_names(never),
            )
        taken: dict[tuple[str, int], Histogram] = {}
        for name, at_groups in partly.items():
            merged = reduce(merge_histograms, (self.histograms[name, group] for group in at_groups))
            taken |= {(name, group): merged for group in groups if group not in at_groups}
        counted = tuple(name for name in self.tensors if name not in never)
        return replace(self, tensors=counted, unseen=never, histograms=self.histograms | taken)

    def max_magnitudes(self) -> dict[str, float]:
        """Return the maximum magnitude of each tensor; ranges may clip it."""
        reached = dict.fromkeys(self.tensors, 0.0)
        for (name, _), histogram in self.histograms.items():
            reached[name] = max(reached[name], -histogram.low, histogram.high)
        return reached

    def group_histograms(self, tensor: str) -> tuple[Histogram, ...]:
        """Return the histogram of a tensor in each range group. Raises UserError if the tensor had no values in one of
        them."""
        groups = range(len(self.edges) + 1)
        for group in groups:
            if (tensor, group) not in self.histograms:
                raise UserError(
                    f"tensor {tensor!r} has no data in lambda group {group + 1} of {len(groups)}",
                    "follow more trajectories (--trajectories)",
                )
        return tuple(self.histograms[tensor, group] for group in groups)


def _join_names(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:LISTED]))
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"
