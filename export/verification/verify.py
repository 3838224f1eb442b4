"""Compare the graphs with their denoiser, before and after the rewrites, at many points.

Two steps, so that the denoiser and its graphs need not be in memory together: record the expected outputs
(`record_reference`), then compare (`compare`).
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal

import msgspec
import numpy as np

from fewstep.export.spec import Reference, Spec, TracedDenoiser
from fewstep.export.verification.bisect import (
    FLOAT16_TOLERANCE,
    Run,
    explain_float16_loss,
    explain_mismatch,
    explain_not_finite,
    explain_randomness,
    find_sample_mixing,
    open_prepared,
    round_to_float16,
)
from fewstep.export.verification.difference import differs, measure_difference
from fewstep.export.verification.float_types import explain_load_errors
from fewstep.export.verification.points import QUICK_BATCH, ComparisonPoint, Scope, comparison_points, mix_times
from fewstep.graph.cuts.prologue import PreparedDenoiser
from fewstep.graph.files.weights import collect_garbage
from fewstep.graph.graph import OUTPUT, Array, Graph
from fewstep.graph.passes.split_attention import split_attention
from fewstep.graph.resource_needs import format_duration
from fewstep.graph.session import open_session
from fewstep.plans.errors import UserError
from fewstep.runtime.kinds.graph_entry import CARRIED, NAMED, NEXT
from fewstep.runtime.kinds.sizes import apply_sizes
from fewstep.runtime.progress import SILENT, Progress

LARGEST = sys.float_info.max
WORTH_SAYING = 60.0  # seconds
LOG = logging.getLogger("fewstep")

Stage = Literal["exported", "prepared", "float16"]


class PointComparison(msgspec.Struct, frozen=True):
    """The reference against a graph at one point. `relative` is max |difference| over max |output of the reference|."""

    stage: Stage
    time: float
    batch: int
    condition: dict[str, list[float]]  # scalar conditions only, one value per sample
    max_abs: float
    relative: float
    sizes: dict[str, int] = {}  # free sizes of x
    edge: str = ""  # the value of a condition at an edge of its domain, such as "mask all 0"


class Verification(msgspec.Struct, frozen=True):
    """The table that a bundle contains. `verified` is a digest of everything that it depends on: a second export of the
    same graphs reuses it."""

    tolerance: float
    comparisons: tuple[PointComparison, ...]
    reference: str = "torch"  # the engine that ran the original denoiser
    scope: Scope = "full"
    verified: str = ""

    @property
    def worst(self) -> PointComparison:
        """The largest difference in float32."""
        return max(
            (comparison for comparison in self.comparisons if comparison.stage != "float16"),
            key=lambda comparison: comparison.relative,
        )


@dataclass(frozen=True)
class ReferenceOutputs:
    """The outputs of a denoiser at every point, kept in memory after the denoiser is released.

    `scope` selects the points. `other_outputs` are the named outputs and the carried tensors at each. `mixed` are the
    feeds of the last point with different times in the batch, and the denoiser's output for each sample alone. If
    samples depend on others of their batch, `dependence` is the error that says so. It is raised only after the graphs
    agree with the denoiser. A quick verification has neither: there, `outputs` are those of each sample alone, and the
    last point is the first sample of the first one if no other has a batch of 1.
    """

    spec: Spec
    scope: Scope
    name: str
    engine: str
    tolerance: float
    points: tuple[ComparisonPoint, ...]
    outputs: tuple[Array, ...]
    other_outputs: tuple[Mapping[str, Array], ...]
    mixed: tuple[Mapping[str, Array], Array] | None = None
    dependence: UserError | None = None


IN_FLOAT32 = "export it in float32: it computes numbers that float16 cannot represent"
ON_GPUS = "engines that compute in float16 will show it"


def record_reference(
    spec: Spec, traced: TracedDenoiser, progress: Progress = SILENT, scope: Scope = "full"
) -> ReferenceOutputs:
    """Run the reference at every point. Raises UserError if its output cannot be that of a denoiser.

    At an edge of a condition's domain, an output that is not finite only causes a warning. The network itself fails
    there, so its graphs may fail too, and export cannot know whether a caller will pass such a value.
    """
    reference, outputs, compared = traced.reference, list[Array](), list[ComparisonPoint]()
    first = scope == "quick"  # after one call, since a single point with zeros would show nothing of carried tensors
    every = tuple(
        _advance_carried(point, reference, number) for number, point in enumerate(comparison_points(spec, scope), first)
    )
    for done, point in enumerate(every, 1):
        started = perf_counter()
        output = _run_alone(reference, point) if scope == "quick" else reference.output(point.feeds, f" at {point}")
        if done == 1:
            warn_of_time(spec, scope, (perf_counter() - started) / point.batch)
        wanted = apply_sizes(spec, point.sizes).output_shape
        if output.shape != (point.batch, *wanted):
            raise UserError(
                f"{reference.name} returned shape {list(output.shape)} at {point}",
                f"correct the spec, which expects {list(wanted)} per sample",
            )
        progress(reference.engine, done, len(every))
        if not np.isfinite(output).all():
            fault = explain_not_finite(reference, traced.graph, point)
            if not point.edge:
                raise fault
            LOG.warning("%s; pass no sample with that value", fault.what)
            continue
        outputs.append(output)
        compared.append(point)
    if needs_single(compared):  # its output is known, so only the graphs run once more
        compared.append(_select_first(compared[0]))
        outputs.append(outputs[0][:1])
    mixed: tuple[Mapping[str, Array], Array] | None = None
    dependence = None
    if scope == "full":
        last = replace(every[-1], feeds=mix_times(every[-1], sorted({point.time for point in every})))
        alone = _run_alone(reference, last)
        mixed, dependence = (last.feeds, alone), _find_dependence(reference, traced.graph, last, alone)
    return ReferenceOutputs(
        spec,
        scope,
        reference.name,
        reference.engine,
        reference.tolerance,
        tuple(compared),
        tuple(outputs),
        tuple(reference.other_outputs(point.feeds) for point in compared),
        mixed,
        dependence,
    )


def compare(
    expected: ReferenceOutputs,
    exported: Graph,
    prepared: PreparedDenoiser,
    again: Callable[[], Reference],
    progress: Progress = SILENT,
    half: PreparedDenoiser | None = None,
    rounds_to_float16: bool = True,
) -> Verification:
    """Compare the exported graph, then the prepared graph, then the prepared graph rounded to float16, with the
    reference at every point.

    A quick verification compares only the prepared graph, which is deployed, and the exported graph only if the
    prepared one differs from the reference. Large attention is computed in parts, which gives the same numbers, since
    the scores of a batch can be larger than the network.

    `half` is the prepared graph in float16, for a float16 bundle. CPU kernels compute it in float32. So every export
    also rounds each result to float16, which shows the loss of float16 in the bundle or in engines, if
    `rounds_to_float16`. Raises UserError at the first mismatch. `again` loads the reference again, to find the node at
    which the mismatch begins.
    """
    comparisons: list[PointComparison] = []

    def check_exported(point: ComparisonPoint, output: Array) -> bool:
        own = open_session(exported)(point.feeds)[OUTPUT]
        return _compare("exported", expected.spec, point, output, own).relative <= expected.tolerance

    def run_all(stage: Stage, run: Run, tolerance: float) -> None:
        for done, (point, output) in enumerate(zip(expected.points, expected.outputs, strict=True), 1):
            returned = _run_graph(run, expected, point)
            comparison = _compare(stage, expected.spec, point, output, returned[OUTPUT])
            for name, tensor in expected.other_outputs[done - 1].items():
                if differs(tensor, returned[name], tolerance):
                    raise _explain_other_output(stage, name, expected.engine, point)
            if not comparison.relative <= tolerance:
                if stage == "float16":
                    raise UserError(
                        explain_float16_loss(comparison.relative, point, expected.name, prepared), IN_FLOAT32
                    )
                is_rewrite = stage == "prepared" and (expected.scope == "full" or check_exported(point, output))
                reference = again()
                raise (
                    None if is_rewrite else _find_dependence(reference, exported, point, output)
                ) or explain_mismatch(is_rewrite, comparison.relative, point, output, reference, exported, prepared)
            comparisons.append(comparison)
            progress(f"{stage} graph", done, len(expected.points))

    with explain_load_errors(exported):
        if expected.scope == "full":
            run_all("exported", open_session(split_attention(exported)), expected.tolerance)
        collect_garbage(exported)  # one graph's weights at a time
        deployed = open_prepared(_split_attention(prepared))
    run_all("prepared", deployed, expected.tolerance)
    if expected.dependence is not None:
        raise expected.dependence
    _check_times(expected, prepared, deployed)
    del deployed
    if half is not None:
        run_all("float16", open_prepared(_split_attention(half)), FLOAT16_TOLERANCE)
    if rounds_to_float16:
        comparisons.extend(_compare_in_float16(expected, prepared, is_deployed=half is not None))
    return Verification(expected.tolerance, tuple(comparisons), expected.engine, expected.scope)


def _run_graph(run: Run, expected: ReferenceOutputs, point: ComparisonPoint) -> dict[str, Array]:
    """Return the outputs of a graph at a point. Raises UserError naming a point of other sizes at which it fails."""
    try:
        return run(point.feeds)
    except UserError as error:
        if point.sizes == expected.points[0].sizes:
            raise
        what = f"the graph of {expected.name} does not run at {point}, though {expected.name} does ({error.what:.200})"
        raise UserError(what, "if it pads to a multiple, give Size that multiple; otherwise give no sizes") from error


def _explain_other_output(stage: Stage, name: str, engine: str, point: ComparisonPoint) -> UserError:
    """Return the error for a named output or a carried tensor that differs."""
    does = f"returns {name.removeprefix(NAMED)!r}" if name.startswith(NAMED) else f"carries {name.removeprefix(NEXT)!r}"
    what = f"the {stage} graph {does} with values that differ from {engine}, at {point}"
    return UserError(what, IN_FLOAT32 if stage == "float16" else "report the module: this is a bug in fewstep")


def count_samples(spec: Spec, scope: Scope) -> int:
    """Return the number of samples that a verification evaluates, by the reference and by graphs together."""
    every = tuple(comparison_points(spec, scope))
    batches = [point.batch for point in every]
    rounded = sum(point.batch for point in every if _is_rounded(point, every[0], scope))
    if scope == "quick":
        return 2 * sum(batches) + rounded + needs_single(every)
    return 3 * sum(batches) + 3 * batches[-1] + rounded


def _is_rounded(point: ComparisonPoint, first: ComparisonPoint, scope: Scope) -> bool:
    """Return True if the graph is also compared at this point with each result rounded to float16."""
    if scope == "full":
        return point.batch == 1
    return point.batch == QUICK_BATCH and not point.edge and point.sizes == first.sizes


def needs_single(points: Sequence[ComparisonPoint]) -> bool:
    """Return True if no point has a batch of 1, in which most callers run a network."""
    return all(point.batch > 1 for point in points)


def _select_first(point: ComparisonPoint) -> ComparisonPoint:
    """Return the point with the first sample of its batch alone."""
    return replace(point, feeds={name: array[:1] for name, array in point.feeds.items()})


def warn_of_time(spec: Spec, scope: Scope, seconds: float) -> None:
    """Warn of a verification that takes minutes. `seconds` is the time of one sample."""
    count = count_samples(spec, scope)
    if seconds * count > WORTH_SAYING:
        shorter = f"; --verify quick takes {count_samples(spec, 'quick')} of them" if scope == "full" else ""
        LOG.warning(
            "verifying takes %d evaluations of one sample, about %s%s", count, format_duration(seconds * count), shorter
        )


def _advance_carried(point: ComparisonPoint, reference: Reference, number: int) -> ComparisonPoint:
    """Return the point with other carried tensors: those that the reference returns after zero, one or two calls at
    this point."""
    for _ in range(number % 3):
        others = reference.other_outputs(point.feeds).items()
        carried = {name.replace(NEXT, CARRIED, 1): tensor for name, tensor in others if name.startswith(NEXT)}
        point = replace(point, feeds={**point.feeds, **carried})
    return point


def _run_alone(reference: Reference, point: ComparisonPoint) -> Array:
    """Return the reference's outputs at a point, with each sample in a batch of its own."""
    where, alone = f" at {point}, one sample alone" if point.batch > 1 else f" at {point}", []
    for row in range(point.batch):
        sample = {name: array[row : row + 1] for name, array in point.feeds.items()}
        alone.append(reference.output(sample, where))
    return np.concatenate(alone)


def _find_dependence(reference: Reference, exported: Graph, point: ComparisonPoint, alone: Array) -> UserError | None:
    """Return an error if the reference's outputs of a batch differ from those of each sample `alone`, else None. (A
    graph mixes samples in the same way as the reference, so comparing both with a batch would not show it.)"""
    together = reference.output(point.feeds, f" at {point}")
    if not differs(alone, together, reference.tolerance):
        return None
    if differs(together, reference.output(point.feeds), reference.tolerance):
        raise explain_randomness(reference, point)
    return UserError(
        f"{reference.name} returns a different output for a sample alone than in its batch, at {point}"
        f"{find_sample_mixing(reference, exported, point.feeds)}",
        "remove operations that mix the batch axis, such as mean(0)",
    )


def _check_times(expected: ReferenceOutputs, prepared: PreparedDenoiser, run: Run) -> None:
    """Raise UserError if the prologue mixes samples: the runtime computes it for all times of a plan at once."""
    if expected.mixed is None or prepared.prologue is None:
        return
    feeds, outputs = expected.mixed
    if differs(outputs, run(feeds)[OUTPUT], expected.tolerance):
        raise UserError(
            f"the prologue of {expected.name} mixes the times of a batch, at {expected.points[-1]}",
            "give the network its time as one number per sample",
        )


def _split_attention(prepared: PreparedDenoiser) -> PreparedDenoiser:
    conditioner = None if prepared.conditioner is None else split_attention(prepared.conditioner)
    return replace(prepared, body=split_attention(prepared.body), conditioner=conditioner)


def _compare_in_float16(
    expected: ReferenceOutputs, prepared: PreparedDenoiser, is_deployed: bool
) -> Iterator[PointComparison]:
    """Yield the loss of rounding each result to float16, at points of the default size. A large loss is an error if the
    bundle computes in float16, otherwise a warning, since engines may be built from it later. Only the first time's
    node is named, since a search takes as long as several runs."""
    run, lost = open_prepared(round_to_float16(_split_attention(prepared))), list[str]()
    for point, output in zip(expected.points, expected.outputs, strict=True):
        if _is_rounded(point, expected.points[0], expected.scope):
            comparison = _compare("float16", expected.spec, point, output, run(point.feeds)[OUTPUT])
            if not comparison.relative <= FLOAT16_TOLERANCE:
                what = "" if lost else explain_float16_loss(comparison.relative, point, expected.name, prepared)
                if is_deployed:
                    raise UserError(what, IN_FLOAT32)
                lost.append(what or f"time {point.time:g}{point.edge and ', '}{point.edge}")
                comparison = msgspec.structs.replace(
                    comparison,
                    max_abs=_clamp_infinite(comparison.max_abs),
                    relative=_clamp_infinite(comparison.relative),
                )
            yield comparison
    if lost:
        others = f" (also at {', '.join(lost[1:])})" if lost[1:] else ""
        LOG.warning("%s%s; %s", lost[0], others, ON_GPUS)


def _clamp_infinite(difference: float) -> float:
    """Return a difference, with infinity or NaN replaced by a number that JSON can represent."""
    return difference if difference < LARGEST else LARGEST


def _compare(stage: Stage, spec: Spec, point: ComparisonPoint, expected: Array, output: Array) -> PointComparison:
    scalars = {c.name: point.feeds[c.input].astype(float).tolist() for c in spec.conditions if not c.shape}
    largest, relative = measure_difference(expected, output)
    return PointComparison(stage, point.time, point.batch, scalars, largest, relative, dict(point.sizes), point.edge)
