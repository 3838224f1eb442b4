"""Compare the graphs with the torch module they came from: before and after the rewrites, at many points.

A mismatch names the first tensor that differs. Names make that possible: torch.onnx calls a tensor as the captured
program does, and no pass gives a name to another value.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from fewstep.export.spec import Spec
from fewstep.export.trace import Traced, call
from fewstep.graph.graph import OUTPUT, TIME, Array, Graph, X
from fewstep.graph.prologue import Prepared
from fewstep.graph.session import open_session
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Condition
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.schedule import NoiseSchedule, time_grid

TOLERANCE = 1e-4  # of the largest absolute value: float32 through some hundred operations stays below 1e-5
TIMES = 3  # noise levels, from pure noise towards the data
BATCHES = (1, 3, 4)

Stage = Literal["exported", "prepared"]


class Comparison(msgspec.Struct, frozen=True):
    """torch against ONNX at one point. `relative` is max |difference| over max |torch output|."""

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

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in self.feeds.values())

    def __str__(self) -> str:
        return f"time {self.time:g}, batch {self.batch}"


Run = Callable[[Mapping[str, Array]], dict[str, Array]]


def verify(
    module: torch.nn.Module, spec: Spec, traced: Traced, prepared: Prepared, progress: Progress = SILENT
) -> Verification:
    """Run torch, the exported and the prepared graph at every point; UserError at the first mismatch."""
    graphs: dict[Stage, Run] = {"exported": open_session(traced.graph), "prepared": _run_prepared(prepared)}
    comparisons = []
    all_points = list(points(spec))
    for done, point in enumerate(all_points, 1):
        expected = call(module, spec, point.tensors(), f" at {point}").numpy()
        if not np.isfinite(expected).all():
            raise UserError(
                f"the module's output is not finite at {point}, from tensor {_first_not_finite(traced, point)} on",
                "check the weights and the range of x and time",
            )
        for stage, run in graphs.items():
            comparison = _compare(stage, spec, point, expected, run(point.feeds)[OUTPUT])
            if not comparison.relative <= TOLERANCE:
                raise _mismatch(comparison, point, traced, prepared)
            comparisons.append(comparison)
        if done == len(all_points):  # the largest batch; a module that is random has been refused by now
            _check_rows(module, spec, point, expected)
        progress("verify", done, len(all_points))
    return Verification(TOLERANCE, tuple(comparisons))


def points(spec: Spec) -> Iterator[Point]:
    """Each time with each batch size; conditions walk through their values, the null value among them."""
    times = [time.network for time in time_grid(NoiseSchedule(spec.schedule), TIMES)[:-1]]
    for number, (time, batch) in enumerate(product(times, BATCHES)):
        rng = np.random.default_rng(number)
        feeds = {X: rng.standard_normal((batch, *spec.x_shape), np.float32), TIME: np.full(batch, time, np.float32)}
        for condition in spec.conditions:
            feeds[condition.input] = _values(condition, batch, number, rng)
        yield Point(time, feeds)


def _values(condition: Condition, batch: int, number: int, rng: np.random.Generator) -> Array:
    """[batch, *shape] values: whole ones in turn, others at random; null as the last sample of every other point."""
    shape = (batch, *condition.shape)
    low = -1.0 if condition.low is None else condition.low
    high = 1.0 if condition.high is None else condition.high
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


def _check_rows(module: torch.nn.Module, spec: Spec, point: Point, expected: Array) -> None:
    """UserError if a sample's output depends on the other samples of its batch: no graph shows that."""
    rows = [tuple(tensor[row : row + 1] for tensor in point.tensors()) for row in range(point.batch)]
    alone = [call(module, spec, row, f" at {point}, one sample alone").numpy() for row in rows]
    if _differs(expected, np.concatenate(alone)):
        raise UserError(
            f"{type(module).__name__} gives a sample alone another output than in its batch, at {point}",
            "let no operation mix the batch axis, as mean(0) does",
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
    torch_values = inner_values(traced, point)
    made = [output for node in traced.graph.nodes for output in node.outputs]
    if comparison.stage == "exported":
        expected = torch_values
        found = open_session(traced.graph, [name for name in made if name in expected])(point.feeds)
        where, fix = "the exported graph differs from torch", "write that operation differently"
    else:
        expected = open_session(traced.graph, made)(point.feeds)
        found = _run_prepared(prepared, tuple(made))(point.feeds)
        where, fix = "the prepared graph differs from the exported one", "report the module: fewstep is at fault"
    order = [name for name in (*torch_values, *made) if name in expected and name in found]
    first = next((name for name in order if _differs(expected[name], found[name])), OUTPUT)
    node = next((node.name for node in traced.graph.nodes if first in node.outputs), "")
    return UserError(f"{where} from node {first!r} ({node}) on: {comparison.relative:.2g} at {point}", fix)


def _differs(expected: Array, found: Array) -> bool:
    if expected.shape != found.shape:
        return True
    if expected.dtype.kind != "f":
        return bool(np.any(expected != found))
    scale = float(np.max(np.abs(expected), initial=0.0)) or 1.0
    return not float(np.max(np.abs(expected - found), initial=0.0)) <= TOLERANCE * scale


def _first_not_finite(traced: Traced, point: Point) -> str:
    for name, value in inner_values(traced, point).items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return repr(name)
    return repr(OUTPUT)


def inner_values(traced: Traced, point: Point) -> dict[str, Array]:
    """Every tensor that the captured program computes at a point, by FX node name, in order."""
    values: dict[str, Array] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            if n.op == "call_function" and isinstance(result, torch.Tensor):
                values[n.name] = result.numpy()
            return result

    with torch.no_grad():
        Recorder(traced.program.module()).run(*point.tensors())
    return values
