"""Time by kind of operation, and the mean time of a step."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fewstep.measure.speed import contender_process
from fewstep.measure.speed.contender import TimedContender, TimedGraph
from fewstep.measure.speed.mean_step import graph_steps
from fewstep.measure.speed.profile import KINDS, REST, seconds_by_kind
from fewstep.measure.speed.race import Turns, run_race
from fewstep.plans.compile import compile_plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.bundle.manifest import Body, GraphEntry
from tests.conftest import with_earlier
from tests.measure.speed.test_timed_process import matmuls


def event(node: str, operation: str, microseconds: int) -> dict[str, object]:
    return {"cat": "Node", "name": f"{node}_kernel_time", "args": {"op_name": operation}, "dur": microseconds}


def test_a_share_is_of_the_medians_of_all_nodes() -> None:
    """The first run of a node allocates. Sessions and threads have separate events."""
    events = [event("conv1", "QLinearConv", each) for each in (900, 60, 62)]
    events += [event("conv2", "QLinearConv", each) for each in (8, 8, 8)]
    events += [event("norm", "InstanceNormalization", each) for each in (20, 20, 25)]
    events += [event("own", "Mine", 10), {"cat": "Session", "name": "model_run", "dur": 1000}]
    assert list(seconds_by_kind(events).items()) == [
        ("products in int8", pytest.approx(70e-6)),
        ("norms", pytest.approx(20e-6)),
        (REST, pytest.approx(10e-6)),
    ]


def test_an_operation_is_of_one_kind() -> None:
    operations = [operation for kind in KINDS.values() for operation in kind.split()]
    assert len(operations) == len(set(operations))


@pytest.mark.slow
def test_a_race_says_where_the_time_of_a_graph_goes(tmp_path: Path) -> None:
    graph = TimedGraph(matmuls(tmp_path, 4), {"x": np.ones((8, 256), np.float32)})
    (timing,) = run_race([TimedContender("matmuls", (graph,))], Turns(rounds=1, threads=1), profiled=True).timings
    assert timing.kinds == {"products in float": 1.0}


PLAN = compile_plan("ddim:4", DenoiserFacts(ScheduleSpec("cosine"), "v"))
FIRST, LAST = GraphEntry("first.onnx", (), ()), GraphEntry("last.onnx", (), ())


def test_each_graph_has_the_steps_it_runs():
    lams = [step.lam if step.lam is not None else -20.0 for step in PLAN.steps]
    edges = tuple((a + b) / 2 for a, b in zip(lams[:-1], lams[1:], strict=True))  # a group for each step
    whole = Body.from_graph(LAST, "int8", "cpu-x86", groups=edges)
    several = graph_steps(with_earlier(whole, FIRST), PLAN)
    assert [(graph.file, steps) for graph, steps in several] == [("first.onnx", 1), ("last.onnx", 3)]
    assert graph_steps(whole, PLAN) == [(whole.graph, 4)]


def graph(taken, name, **seconds):
    """An opener of a graph that records its runs, with known seconds by kind."""
    return lambda: (partial(taken.append, name), lambda: seconds)


def test_a_call_runs_each_graph_as_often_as_the_plan_has_it():
    """One run of 4 s among four, and three of 2 s: the first has 0.4 of the time."""
    taken, graphs = [], [("noisy", 1, "first", {"norms": 4.0}), ("clean", 3, "last", {"norms": 0.5, "functions": 1.5})]
    calls = contender_process.open_steps(
        [(network, times, graph(taken, name, **own)) for network, times, name, own in graphs]
    )
    for name, runs in (("", ["first", *["last"] * 3]), ("noisy", ["first"]), ("clean", ["last"] * 3)):
        calls[name]()
        assert taken == runs
        taken.clear()
    assert calls[contender_process.PROFILES]() == {
        "": {"norms": 4.0 + 3 * 0.5, "functions": 3 * 1.5},
        "noisy": {"norms": 4.0},
        "clean": {"norms": 1.5, "functions": 4.5},
    }
    unknown = contender_process.open_steps([("a", 1, graph(taken, "first", norms=4.0)), ("a", 3, graph(taken, "last"))])
    assert unknown[contender_process.PROFILES]() == {"": {}, "a": {}}
