"""Compare the graphs with the denoiser they came from: before and after the rewrites, at many points.

A mismatch names the first tensor that differs. Names make that possible: the exported graph calls a tensor as the
reference does (torch.onnx keeps the names of the captured program), and no pass gives a name to another value.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import msgspec
import numpy as np

from fewstep.export.spec import Reference, Spec, Traced
from fewstep.graph.graph import OUTPUT, TIME, Array, Graph, X
from fewstep.graph.prologue import Prepared
from fewstep.graph.session import open_session
from fewstep.runtime.conditions import drawn_range
from fewstep.runtime.errors import UserError
from fewstep.runtime.grids import trailing
from fewstep.runtime.manifest import Condition
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.schedule import NoiseSchedule

TIMES = 3  # noise levels, from pure noise towards the data
BATCHES = (1, 3, 4)

Stage = Literal["exported", "prepared"]


class Comparison(msgspec.Struct, frozen=True):
    """The reference against a graph at one point. `relative` is max |difference| over max |output of the reference|."""

    stage: Stage
    time: float
    batch: int
    condition: dict[str, list[float]]  # scalar conditions only, one value per sample
    max_abs: float
    relative: float


class Verification(msgspec.Struct, frozen=True):
    """The table that a bundle carries."""

    tolerance: float
    comparisons: tuple[Comparison, ...]
    reference: str = "torch"  # what ran the denoiser as it was given

    @property
    def worst(self) -> Comparison:
        return max(self.comparisons, key=lambda comparison: comparison.relative)


@dataclass(frozen=True)
class Point:
    """Inputs of one comparison, by graph input name."""

    time: float
    feeds: Mapping[str, Array]

    @property
    def batch(self) -> int:
        return len(self.feeds[X])

    def __str__(self) -> str:
        return f"time {self.time:g}, batch {self.batch}"


Run = Callable[[Mapping[str, Array]], dict[str, Array]]


def verify(spec: Spec, traced: Traced, prepared: Prepared, progress: Progress = SILENT) -> Verification:
    """Run the reference, the exported and the prepared graph at every point; UserError at the first mismatch."""
    reference = traced.reference
    graphs: dict[Stage, Run] = {"exported": open_session(traced.graph), "prepared": _run_prepared(prepared)}
    comparisons = []
    all_points = list(points(spec))
    for done, point in enumerate(all_points, 1):
        expected = reference.output(point.feeds, f" at {point}")
        if expected.shape != (point.batch, *spec.output_shape):
            raise UserError(
                f"{reference.name} returned shape {list(expected.shape)} at {point}",
                f"give the spec of a denoiser that returns {list(spec.output_shape)} per sample",
            )
        if not np.isfinite(expected).all():
            raise UserError(
                f"the output of {reference.name} is not finite at {point}, "
                f"from tensor {_first_not_finite(reference, point)} on",
                "check the weights and the range of x and time",
            )
        for stage, run in graphs.items():
            comparison = _compare(stage, spec, point, expected, run(point.feeds)[OUTPUT])
            if not comparison.relative <= reference.tolerance:
                raise _mismatch(comparison, point, traced, prepared)
            comparisons.append(comparison)
        if done == len(all_points):  # the largest batch; a module that is random has been refused by now
            _check_rows(reference, prepared, point, [each.time for each in all_points])
        progress("verify", done, len(all_points))
    return Verification(reference.tolerance, tuple(comparisons), reference.engine)


def points(spec: Spec) -> Iterator[Point]:
    """Each time with each batch size; conditions walk through their values, the null value among them."""
    times = [time.network for time in trailing(NoiseSchedule(spec.schedule), TIMES)[:-1]]
    for number, (time, batch) in enumerate(product(times, BATCHES)):
        rng = np.random.default_rng(number)
        feeds = {X: rng.standard_normal((batch, *spec.x_shape), np.float32), TIME: np.full(batch, time, np.float32)}
        for condition in spec.conditions:
            feeds[condition.input] = _values(condition, batch, number, rng)
        yield Point(time, feeds)


def _values(condition: Condition, batch: int, number: int, rng: np.random.Generator) -> Array:
    """[batch, *shape] values: whole ones in turn, others at random; null as the last sample of every other point."""
    shape = (batch, *condition.shape)
    low, high = drawn_range(condition) or (-1.0, 1.0)
    in_turn = np.arange(math.prod(shape)).reshape(shape) + number
    kind = np.dtype(condition.dtype).kind
    if kind == "b":
        values: Array = in_turn % 2
    elif kind in "iu":
        values = low + in_turn % (high - low + 1)
    else:
        values = rng.uniform(low, high, shape)
    if condition.null is not None and number % 2:
        values[-1] = condition.null
    return values.astype(condition.dtype)


def _check_rows(reference: Reference, prepared: Prepared, point: Point, times: Sequence[float]) -> None:
    """UserError if a sample's output depends on the other samples of its batch: no graph shows that.

    The runtime asks the prologue for all times of a plan at once, so the samples here have different times.
    """
    feeds = {**point.feeds, TIME: np.resize(np.unique(np.asarray(times, np.float32)), point.batch)}
    alone = []
    for row in range(point.batch):
        one = {name: array[row : row + 1] for name, array in feeds.items()}
        alone.append(reference.output(one, f" at {point}, one sample alone"))
    expected = np.concatenate(alone)
    if _differs(expected, reference.output(feeds, f" at {point}"), reference.tolerance):
        raise UserError(
            f"{reference.name} gives a sample alone another output than in its batch, at {point}",
            "let no operation mix the batch axis, as mean(0) does",
        )
    if prepared.prologue is not None:
        rows, body = open_session(prepared.prologue)(feeds), open_session(prepared.body)
        found = body({**feeds, **rows})[OUTPUT]
        if _differs(expected, found, reference.tolerance):
            raise UserError(
                f"the prologue of {reference.name} mixes the times of a batch, at {point}",
                "give the network its time as one number per sample",
            )


def _run_prepared(prepared: Prepared, also: tuple[str, ...] = ()) -> Run:
    """Prologue, then body, as the runtime runs them; `also` names inner tensors of either to return too."""

    def opened(graph: Graph) -> Run:
        made = {output for node in graph.nodes for output in node.outputs} - {value.name for value in graph.outputs}
        return open_session(graph, [name for name in also if name in made])

    body = opened(prepared.body)
    if prepared.prologue is None:
        return body
    prologue = opened(prepared.prologue)

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        rows = prologue(feeds)
        return {**rows, **body({**feeds, **rows})}

    return run


def _compare(stage: Stage, spec: Spec, point: Point, expected: Array, found: Array) -> Comparison:
    error = float(np.max(np.abs(expected - found))) if expected.shape == found.shape else math.inf
    scale = float(np.max(np.abs(expected)))
    scalars = {c.name: point.feeds[c.input].astype(float).tolist() for c in spec.conditions if not c.shape}
    return Comparison(stage, point.time, point.batch, scalars, error, error / scale if scale else error)


def _mismatch(comparison: Comparison, point: Point, traced: Traced, prepared: Prepared) -> UserError:
    """The error that names the first node whose value differs."""
    reference = traced.reference
    once, again = (reference.output(point.feeds) for _ in range(2))
    if _differs(once, again, reference.tolerance):
        return UserError(
            f"{reference.name} gives another output each time, at {point}", "let it draw nothing at random"
        )
    given = reference.inner(point.feeds)
    made = [output for node in traced.graph.nodes for output in node.outputs]
    if comparison.stage == "exported":
        expected = given
        found = open_session(traced.graph, [name for name in made if name in expected])(point.feeds)
        where, fix = f"the exported graph differs from {reference.engine}", reference.fix
    else:
        expected = open_session(traced.graph, made)(point.feeds)
        found = _run_prepared(prepared, tuple(made))(point.feeds)
        where, fix = "the prepared graph differs from the exported one", "report the module: fewstep is at fault"
    order = [name for name in (*given, *made) if name in expected and name in found]
    first = next((name for name in order if _differs(expected[name], found[name], reference.tolerance)), OUTPUT)
    node = next((node.name for node in traced.graph.nodes if first in node.outputs), "")
    place = f" from node {first!r} ({node}) on" if len(order) > 1 else ""
    return UserError(f"{where}{place}: {comparison.relative:.2g} at {point}", fix)


def _differs(expected: Array, found: Array, tolerance: float) -> bool:
    if expected.shape != found.shape:
        return True
    if expected.dtype.kind != "f":
        return bool(np.any(expected != found))
    scale = float(np.max(np.abs(expected), initial=0.0)) or 1.0
    return not float(np.max(np.abs(expected - found), initial=0.0)) <= tolerance * scale


def _first_not_finite(reference: Reference, point: Point) -> str:
    for name, value in reference.inner(point.feeds).items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return repr(name)
    return repr(OUTPUT)
