"""A bundle of two convolutions, whose int8 bodies are off by a known relative error: for what judges bundles."""

from dataclasses import replace

import msgspec
import numpy as np

from fewstep.graph.commit import open_for_update
from fewstep.graph.graph import Graph, Node, Value
from fewstep.graph.io import store
from fewstep.plans.compile import compile_plan
from fewstep.plans.file import encode
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.bundle.manifest import SCHEMA, Body, Condition, Coverage, Manifest, Provenance, TensorEntry
from fewstep.runtime.bundle.manifest import GraphEntry as GraphEntry
from tests.conftest import with_earlier

SHAPE = (1, 8, 8)
ERROR = 0.02  # of the int8 body: its output is this much too large
COVERAGE = Coverage(2304, 4608, ("output",), ("h",))
F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def prologue():
    """row [batch, 4, 1, 1] of time and class."""
    embedding = np.random.default_rng(0).normal(size=(11, 4, 1, 1)).astype(np.float32)
    constants = {"embedding": embedding, "scale": np.float32(1e-3), "axes": np.array([1, 2, 3])}
    nodes = (
        Node("Gather", ("embedding", "class"), ("label",)),
        Node("Unsqueeze", ("time", "axes"), ("t4",)),
        Node("Mul", ("t4", "scale"), ("t",)),
        Node("Mul", ("label", "t"), ("row",)),
    )
    inputs = (Value("time", F32, ("batch",)), Value("class", I64, ("batch",)))
    return Graph("prologue", inputs, (Value("row", F32, ("batch", 4, 1, 1)),), nodes, constants)


def body(error=0.0):
    """Two convolutions, of which the second is off by a relative `error`."""
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=size).astype(np.float32) * 0.2 for size in ((4, 1, 3, 3), (1, 4, 3, 3)))
    nodes = (
        Node("Conv", ("x", "first"), ("h",), {"pads": [1, 1, 1, 1]}, "conv_in"),
        Node("Add", ("h", "row"), ("modulated",)),
        Node("Tanh", ("modulated",), ("active",)),
        Node("Conv", ("active", "second"), ("output",), {"pads": [1, 1, 1, 1]}, "conv_out"),
    )
    inputs = (Value("x", F32, ("batch", *SHAPE)), Value("row", F32, ("batch", 4, 1, 1)))
    constants = {"first": first, "second": second * np.float32(1 + error)}
    return Graph("body", inputs, (Value("output", F32, ("batch", *SHAPE)),), nodes, constants)


def entry(file, graph, roles):
    def tensor(value):
        return TensorEntry(value.name, roles.get(value.name, "row"), value.shape, str(value.dtype))

    return GraphEntry(file, tuple(map(tensor, graph.inputs)), tuple(map(tensor, graph.outputs)))


def make_bundle(path):
    roles = {"x": "x", "output": "output", "time": "time", "class": "condition"}
    with open_for_update(path, must_exist=False) as writer:
        graphs = {"prologue": prologue(), "body": body(), "int8": body(ERROR)}
        made = {name: (store(writer, graph, name)[0], graph) for name, graph in graphs.items()}
        float32, int8 = (entry(*made[name], roles) for name in ("body", "int8"))
        plan = compile_plan("dpmpp_2m:4", DenoiserFacts(ScheduleSpec("cosine"), "v"), guidance=2.0)
        writer.commit(
            Manifest(
                schema=SCHEMA,
                name="tiny <denoiser>",
                x_shape=SHAPE,
                conditions=(Condition("class", "class", null=10, low=0, high=9, labels=tuple("ABCDEFGHIJ")),),
                prediction="v",
                schedule=ScheduleSpec("cosine"),
                prologue=entry(*made["prologue"], roles),
                bodies={
                    "float32": Body.of(float32, "float32", "portable"),
                    "int8-tensorrt": Body.of(int8, "int8", "tensorrt", plan="dpmpp_2m:4"),
                    "int8-cpu-x86": Body.of(int8, "int8", "cpu-x86", plan="dpmpp_2m:4", coverage=COVERAGE),
                },
                provenance=Provenance("tiny", "0" * 64, {}, ("fewstep export tiny -o BUNDLE",)),
                files={},
                plans={"dpmpp_2m:4": writer.add(encode(plan), "plans", "plan", ".json")},
            )
        )
    return path


def grouped_body(error):
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
    """Let an exact graph, nothing of it in int8, run the steps of the first `until` range groups of int8-cpu-x86."""
    plan = compile_plan("dpmpp_2m:4", DenoiserFacts(ScheduleSpec("cosine"), "v"), guidance=2.0)
    lams = [-20.0 if step.lam is None else step.lam for step in plan.steps]
    edges = tuple((a + b) / 2 for a, b in zip(lams[:-1], lams[1:], strict=True))
    roles = {"x": "x", "output": "output", "group": "group"}
    with open_for_update(path, must_exist=True) as writer:
        graph = grouped_body(ERROR)
        int8 = entry(store(writer, graph, "grouped")[0], graph, roles)
        bodies = writer.manifest.bodies
        whole = Body.of(int8, "int8", "cpu-x86", edges, plan.name, COVERAGE)
        mapped = with_earlier(whole, bodies["float32"].graph, Coverage(0, 4608, (), ("h", "output")), until)
        writer.commit(msgspec.structs.replace(writer.manifest, bodies={**bodies, "int8-cpu-x86": mapped}))
