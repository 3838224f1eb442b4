"""Sampling takes the time and memory that it announced, as far as they are known in advance."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import msgspec
import numpy as np
import pytest

from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.graph.files.commit import open_for_update
from fewstep.graph.files.io import store
from fewstep.graph.graph import Graph, Node, Value
from fewstep.measure import cost, estimate
from fewstep.measure.cost import body_bytes, needs_row_by_row, peak_activation_bytes, sampling_needs
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.report.choosing.choose import choose
from fewstep.report.choosing.options import ChooseOptions
from fewstep.report.options import ReportOptions
from fewstep.report.report import report
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.report.judged_bundle import body, make_bundle

F32 = np.dtype(np.float32)


def test_a_tensor_is_held_until_its_last_reader_has_run() -> None:
    """A row has 4 numbers, 16 bytes: a, b and c are held besides x, and the sum of b and c once a is freed."""
    nodes = (
        Node("Tanh", ("x",), ("a",)),
        Node("Neg", ("a",), ("b",)),
        Node("Abs", ("a",), ("c",)),
        Node("Add", ("b", "c"), ("y",)),
    )
    graph = Graph("few", (Value("x", F32, ("batch", 4)),), (Value("y", F32, ("batch", 4)),), nodes, {})
    assert peak_activation_bytes(graph) == 4 * 16


def test_each_worker_holds_all_bodies(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "tiny"))
    plan = load(bundle.path).compile("dpmpp_2m:4", 2.0)
    bodies = {"int8-cpu-x86": bundle.body("int8-cpu-x86")}
    alone, two = (sampling_needs(bundle, bodies, plan, 16, (100, 0), workers) for workers in (0, 2))
    sample = cost.PER_ACTIVATION * 2 * 16 * peak_activation_bytes(body())
    exact, int8 = (cost.PER_WEIGHT * body_bytes(bundle, name) for name in ("float32", "int8-cpu-x86"))
    assert alone.memory == round(exact + int8 + sample + cost.PROCESS_BYTES) and (alone.disk, alone.files) == (100, 2)
    assert two.memory == round(3 * (exact + sample + cost.PROCESS_BYTES) + 2 * int8)


def test_a_body_that_sees_rows_has_the_activations_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "tiny"))
    plan = load(bundle.path).compile("dpmpp_2m:4", 2.0)
    batch, one = (sampling_needs(bundle, (), plan, cost.BATCH, (), by_rows=by_rows).memory for by_rows in (False, True))
    assert batch - one == round(cost.PER_ACTIVATION * (2 * 16 - 1) * peak_activation_bytes(body()))
    assert not needs_row_by_row(bundle, (), plan)
    for free, rows in ((batch + 1, False), (batch - 1, True), (None, False)):  # `batch` is rounded
        monkeypatch.setattr(cost, "memory_free", lambda _, free=free: free)
        assert needs_row_by_row(bundle, (), plan) is rows
    monkeypatch.setattr(cost, "MOST_ACTIVATIONS", cost.PER_ACTIVATION * 2 * 16 * peak_activation_bytes(body()) - 1)
    assert needs_row_by_row(bundle, (), plan)


def test_of_a_file_that_bodies_share_each_counts_what_it_reads(tmp_path: Path) -> None:
    """float32 has two weights in its file. int8 reads one of them there, and has another in a separate file."""
    folder = make_bundle(tmp_path / "tiny")
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=(64, 64)).astype(np.float32) for _ in range(3))
    shape = ("batch", 64)

    def product(*constants: str) -> Graph:
        nodes = (Node("MatMul", ("x", constants[0]), ("h",)), Node("MatMul", ("h", constants[1]), ("y",)))
        values = {"a": a, "b": b, "c": c}
        own = {name: values[name] for name in constants}
        return Graph("body", (Value("x", F32, shape),), (Value("y", F32, shape),), nodes, own)

    sizes = {}
    with open_for_update(folder, must_exist=True) as writer:
        bodies = dict(writer.manifest.bodies)
        for name, graph in (("float32", product("a", "b")), ("int8-cpu-x86", product("a", "c"))):
            file, data = store(writer, graph, "body", external_above=0)
            entry = msgspec.structs.replace(bodies[name].graph, file=file, data=data)
            bodies[name] = msgspec.structs.replace(bodies[name], graphs=(entry,))
            sizes[name] = file
        writer.commit(msgspec.structs.replace(writer.manifest, bodies=bodies))
    bundle = open_bundle(folder)
    assert set(bundle.body("float32").graph.data) < set(bundle.body("int8-cpu-x86").graph.data)
    for name, file in sizes.items():
        assert body_bytes(bundle, name) == (folder / file).stat().st_size + 2 * 4 * 64 * 64


@pytest.mark.parametrize(
    ("begin", "work"),
    [
        (lambda path: measure(MeasureOptions(path, seeds=4)), "fewstep.measure.measure.run_measurement"),
        (
            lambda path: report(ReportOptions(path, seeds=20, simulated_seeds=5)),
            "fewstep.report.report.collect_figures",
        ),
        (lambda path: choose(ChooseOptions(path, seeds=4)), "fewstep.measure.judged_reference.find_teacher"),
        (lambda path: fit(FitOptions(path, steps=3, guidance=2.0)), "fewstep.fitting.fit._run_fit"),
    ],
    ids=["measure", "report", "choose", "fit"],
)
def test_work_of_minutes_says_its_time_before_it_begins(
    begin: Callable[[Path], object],
    work: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(estimate, "LEAST_ANNOUNCED", 0.0)
    monkeypatch.setattr(work, Mock(side_effect=KeyboardInterrupt))
    folder = make_bundle(tmp_path / "tiny")
    with caplog.at_level(logging.INFO, "fewstep.ahead"), pytest.raises(KeyboardInterrupt):
        begin(folder)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "fewstep.ahead"]
    assert re.match(r"this takes up to .*: [1-9]\d* evaluations of one sample", said)
