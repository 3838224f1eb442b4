"""What sampling is said to take is what it takes, as far as that is known before."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.evaluation import cost
from fewstep.evaluation.cost import ALONE, BATCH, OPENED, RUN, body_bytes, live_bytes, sampling_needs, sees_rows
from fewstep.graph.graph import Graph, Node, Value
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from tests.evaluation.judged_bundle import body, make_bundle

F32 = np.dtype(np.float32)


def test_a_tensor_is_held_until_its_last_reader_has_run() -> None:
    """A row has 4 numbers, 16 bytes: a, b and c are there beside x, and the sum of b and c when a is gone."""
    nodes = (
        Node("Tanh", ("x",), ("a",)),
        Node("Neg", ("a",), ("b",)),
        Node("Abs", ("a",), ("c",)),
        Node("Add", ("b", "c"), ("y",)),
    )
    graph = Graph("few", (Value("x", F32, ("batch", 4)),), (Value("y", F32, ("batch", 4)),), nodes, {})
    assert live_bytes(graph) == 4 * 16


def test_each_worker_holds_all_bodies(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "tiny"))
    plan = load(bundle.path).compile("dpmpp_2m:4", 2.0)
    bodies = {"int8-cpu-x86": bundle.body("int8-cpu-x86")}
    alone, two = (sampling_needs(bundle, bodies, plan, 16, (100, 0), workers) for workers in (0, 2))
    far = sampling_needs(bundle, bodies, plan, 16, (100, 0), dask="tcp://head:8786")
    sample = RUN * 2 * 16 * live_bytes(body())
    exact, int8 = (OPENED * body_bytes(bundle, name) for name in ("float32", "int8-cpu-x86"))
    assert alone.memory == round(exact + int8 + sample + ALONE) and (alone.disk, alone.files) == (100, 2)
    assert far.memory == round(exact + sample + ALONE)
    assert two.memory == round(3 * (exact + sample + ALONE) + 2 * int8)


def test_a_body_that_sees_rows_has_the_activations_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "tiny"))
    plan = load(bundle.path).compile("dpmpp_2m:4", 2.0)
    batch, one = (sampling_needs(bundle, (), plan, BATCH, (), by_rows=by_rows).memory for by_rows in (False, True))
    assert batch - one == round(RUN * (2 * 16 - 1) * live_bytes(body()))
    assert not sees_rows(bundle, (), plan)
    for free, rows in ((batch, False), (batch - 1, True), (None, False)):
        monkeypatch.setattr(cost, "memory_free", lambda _, free=free: free)
        assert sees_rows(bundle, (), plan) is rows
    monkeypatch.setattr(cost, "LARGEST", RUN * 2 * 16 * live_bytes(body()) - 1)
    assert sees_rows(bundle, (), plan)
