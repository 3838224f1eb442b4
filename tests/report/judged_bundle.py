"""A bundle of two convolutions, whose int8 bodies have a known relative error."""

from dataclasses import replace

import msgspec
import numpy as np

from fewstep.graph.files.commit import open_for_update
from fewstep.graph.files.io import store
from fewstep.graph.graph import Graph, Node, Value
from fewstep.plans.compile import compile_plan
from fewstep.plans.file import encode
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.bundle.manifest import Body, Condition, Coverage
from fewstep.runtime.bundle.manifest import GraphEntry as GraphEntry
from tests.bundles import entry, node, small, value, write_graphs
from tests.conftest import with_earlier

SHAPE = (1, 8, 8)
ERROR = 0.02  # of the int8 body: its output is this much too large
COVERAGE = Coverage(2304, 4608, ("output",), ("h",))
F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def prologue():
    """row [batch, 4, 1, 1] of time and class."""
    return small(
        [value("time", "batch"), value("class", "batch", dtype="int64")],
        [value("row", "batch", 4, 1, 1)],
        [
            node("Gather", "embedding class", "label"),
            node("Unsqueeze", "time axes", "t4"),
            node("Mul", "t4 scale", "t"),
            node("Mul", "label t", "row"),
        ],
        embedding=np.random.default_rng(0).normal(size=(11, 4, 1, 1)),
        scale=1e-3,
        axes=np.array([1, 2, 3]),
    )


def body(error=0.0):
    """Two convolutions, of which the second is off by a relative `error`."""
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=size).astype(np.float32) * 0.2 for size in ((4, 1, 3, 3), (1, 4, 3, 3)))
    nodes = [
        replace(node("Conv", "x first", "h", pads=[1, 1, 1, 1]), name="conv_in"),
        node("Add", "h row", "modulated"),
        node("Tanh", "modulated", "active"),
        replace(node("Conv", "active second", "output", pads=[1, 1, 1, 1]), name="conv_out"),
    ]
    inputs, outputs = [value("x", "batch", *SHAPE), value("row", "batch", 4, 1, 1)], [value("output", "batch", *SHAPE)]
    return small(inputs, outputs, nodes, first=first, second=second * np.float32(1 + error))


def make_bundle(path):
    plan = compile_plan("dpmpp_2m:4", DenoiserFacts(ScheduleSpec("cosine"), "v"), guidance=2.0)
    int8 = {"graph": "int8", "plan": "dpmpp_2m:4"}
    return write_graphs(
        path,
        {"prologue": prologue(), "body": body(), "int8": body(ERROR)},
        {"float32": {}, "int8-tensorrt": int8, "int8-cpu-x86": {**int8, "coverage": COVERAGE}},
        {"plans/plan.json": encode(plan)},
        name="tiny <denoiser>",
        conditions=(Condition("class", "class", null=10, low=0, high=9, labels=tuple("ABCDEFGHIJ")),),
        plans={"dpmpp_2m:4": "plans/plan.json"},
    )


def body_with_groups(error):
    """The same with a range group for each of four steps, all off by `error`."""
    exact = body()
    nodes = (
        *exact.nodes[:-1],
        replace(exact.nodes[-1], outputs=("exact",)),
        Node("Gather", ("factors", "group"), ("factor",)),
        Node("Mul", ("exact", "factor"), ("output",)),
    )
    constants = {**exact.constants, "factors": np.full(4, 1 + error, np.float32)}
    return Graph("grouped", (*exact.inputs, Value("group", I64, (1,))), exact.outputs, nodes, constants)


def add_earlier(path, until=2):
    """Let an exact float graph run the steps of the first `until` range groups of int8-cpu-x86."""
    plan = compile_plan("dpmpp_2m:4", DenoiserFacts(ScheduleSpec("cosine"), "v"), guidance=2.0)
    lams = [-20.0 if step.lam is None else step.lam for step in plan.steps]
    edges = tuple((a + b) / 2 for a, b in zip(lams[:-1], lams[1:], strict=True))
    with open_for_update(path, must_exist=True) as writer:
        graph = body_with_groups(ERROR)
        int8 = entry(store(writer, graph, "grouped")[0], graph)
        bodies = writer.manifest.bodies
        whole = Body.from_graph(int8, "int8", "cpu-x86", edges, plan.name, COVERAGE)
        mapped = with_earlier(whole, bodies["float32"].graph, Coverage(0, 4608, (), ("h", "output")), until)
        writer.commit(msgspec.structs.replace(writer.manifest, bodies={**bodies, "int8-cpu-x86": mapped}))
