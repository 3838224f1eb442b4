"""Graphs that a body runs instead of shared ones: ranges, weights, judgement, and the body that has them."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration import replaced_graphs, shared_graph_ranges
from fewstep.calibration.activation_counts import tabulate
from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.cost import _count_judged_graphs
from fewstep.calibration.lowering.quantize import LoweredBody, lower
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets import load_target
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.ranges.observe import Counts
from fewstep.calibration.ranges.table import RangesTable
from fewstep.calibration.resource_needs import body_bytes, estimate_needs
from fewstep.calibration.shared_graph_ranges import measure_ranges, setup_feeds
from fewstep.calibration.task import Task
from fewstep.graph.graph import Graph
from fewstep.graph.session import run
from fewstep.runtime.backends import onnxruntime, openvino_agreement
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.bundle.manifest import Condition, NetworkEntry
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle, content_of, entry, write_graphs
from tests.calibration.test_calibrate import SCHEDULE, denoiser, task_of, write_bundle
from tests.exact_int8 import EXACT_TARGET
from tests.onnx_text import graph_of_text
from tests.refusals import refuses

BODY = f"int8-{EXACT_TARGET}"
PICTURE = (3, 12, 12)


def camera() -> Graph:
    """row [1, 1, 1] from a picture: 3 -> 16 -> 32 -> 32 channels, and their mean. The first convolution stays float."""
    rng, widths = np.random.default_rng(3), (3, 16, 32, 32)
    weights = {
        f"c{i}": (rng.standard_normal((out, into, 3, 3)) / (3 * into**0.5)).astype(np.float32)
        for i, (into, out) in enumerate(zip(widths[:-1], widths[1:], strict=True))
    }
    conv = "Conv<pads=[1, 1, 1, 1]>"
    text = f"""(float[batch, 3, 12, 12] class) => (float[batch, 1, 1, 1] row) {{
        k0 = {conv}(class, c0) r0 = Relu(k0) k1 = {conv}(r0, c1) r1 = Relu(k1) k2 = {conv}(r1, c2) r2 = Relu(k2)
        mean = ReduceMean<keepdims=1>(r2, axes) row = Add(mean, half)
    }}"""
    return graph_of_text(text, **weights, axes=np.array([1, 2, 3]), half=np.float32(0.5))


def timed() -> Graph:
    """row [1, 1, 1] from a time: 32 waves, two products, and their mean."""
    rng = np.random.default_rng(4)
    weights = {name: (rng.standard_normal((32, 32)) / 32**0.5).astype(np.float32) for name in ("w0", "w1")}
    text = """(float[batch] time) => (float[batch, 1, 1, 1] row) {
        t = Unsqueeze(time, one) angles = Mul(t, waves) e = Sin(angles) p0 = MatMul(e, w0) a0 = Relu(p0)
        p1 = MatMul(a0, w1) mean = ReduceMean<keepdims=1>(p1, one) more = Add(mean, half) row = Unsqueeze(more, last)
    }"""
    waves = np.geomspace(1e-3, 1e-1, 32).astype(np.float32)
    return graph_of_text(text, **weights, waves=waves, one=np.array([1]), last=np.array([2, 3]), half=np.float32(0.5))


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A bundle whose prologue has two products."""
    return write_graphs(
        tmp_path / "clock",
        {"body": denoiser(), "prologue": timed()},
        {"float32": {}},
        prologue=entry("graphs/prologue.onnx", timed()),
        prediction="sample",
        schedule=SCHEDULE,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    conditioner = camera()
    return write_graphs(
        tmp_path / "camera",
        {"body": denoiser(), "conditioner": conditioner},
        {"float32": {}},
        conditions=(Condition("class", "class", PICTURE, "float32", low=-1.0, high=1.0),),
        conditioner=entry("graphs/conditioner.onnx", conditioner),
        prediction="sample",
        schedule=SCHEDULE,
    )


def options(bundle: Path) -> CalibrateOptions:
    return CalibrateOptions(bundle, plan="ddim:2", target=(EXACT_TARGET,), trajectories=4, threads=1, clip=1.0)


def calibrated(bundle: Path) -> Calibration:
    return calibrate(options(bundle))


def test_ranges_of_a_conditioner_are_those_of_the_conditions(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(options(bundle))
    fed = [*setup_feeds(task, "conditioner")]
    assert len(fed) == 4 and {name: len(value) for name, value in fed[0].items()} == {"class": 1}
    graph = camera()
    table = measure_ranges(task, graph, fed)
    assert table.groups == () and set(table.tensors) == {"class", "k0", "r0", "k1", "r1", "k2"}
    lowered = lower(graph, table, task.targets[0])
    assert lowered.coverage.int8_ops == ("k1", "k2") and lowered.groups == ()
    pictures = np.random.default_rng(0).uniform(-1, 1, (8, *PICTURE)).astype(np.float32)
    exact, int8 = (run(version, {"class": pictures})["row"] for version in (graph, lowered.graph))
    assert 0 < np.square(int8 - exact).mean() < 5e-2 * exact.var()


def test_the_disk_of_a_calibration_counts_a_conditioner_in_int8(bundle: Path) -> None:
    task = task_of(options(bundle))
    size = (bundle / "graphs/conditioner.onnx").stat().st_size
    bodies = sum(body_bytes(task.prepared, task.operations, target) for target in task.targets)
    here = [target for target in task.targets if target.platform.backend == "onnxruntime"]
    assert here and estimate_needs(task).disk == bodies + len(here) * (size // 4)


def test_ranges_of_few_samples_leave_room_for_others(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels get more room the fewer samples were counted, and not that of 16 conditions."""
    counted = list[int]()

    def tabulate_counts(task: Task, counts: Counts) -> RangesTable:
        counted.append(counts.samples)
        return tabulate(task, counts)

    monkeypatch.setattr(shared_graph_ranges, "tabulate", tabulate_counts)
    pictures = np.random.default_rng(0).uniform(-1, 1, (2, 1, *PICTURE)).astype(np.float32)
    measure_ranges(task_of(options(bundle)), camera(), [{"class": picture} for picture in pictures])
    assert counted == [2]


def test_the_body_has_it_and_its_error(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fewstep")
    result = calibrated(bundle)
    assert "conditioner in int8" in caplog.text
    own = open_bundle(bundle).manifest.bodies[BODY].replaces["conditioner"]
    pictures = np.random.default_rng(1).uniform(-1, 1, (4, *PICTURE)).astype(np.float32)
    exact, int8 = (load(bundle, body=name) for name in ("float32", BODY))
    assert int8.bundle.manifest.conditioner is not None and int8.bundle.manifest.conditioner.file == own.file
    assert own.coverage is not None and own.coverage.int8_ops == ("k1", "k2")
    rows = [sampler.network().conditioner({"class": pictures})["row"] for sampler in (exact, int8)]  # type: ignore[misc]
    assert 0 < np.square(rows[1] - rows[0]).mean() < 5e-2 * rows[0].var()
    samples = [sampler.sample("ddim:2", range(4), {"class": pictures}) for sampler in (exact, int8)]
    assert 0 < np.square(samples[1] - samples[0]).mean() < 1e-3
    assert result.bodies[BODY].trials[0].psnr > 30
    (bundle / own.file).unlink()
    with refuses(f"file {own.file} is missing", "calibrate"):
        load(bundle, body=BODY)


def test_a_prologue_is_in_int8_too(clock: Path) -> None:
    calibrated(clock)
    own = open_bundle(clock).manifest.bodies[BODY].replaces["prologue"]
    assert own.coverage is not None and own.coverage.int8_ops == ("p0", "p1")
    samples = [load(clock, body=name).sample("ddim:2", range(4)) for name in ("float32", BODY)]
    assert 0 < np.square(samples[1] - samples[0]).mean() < 1e-3


def test_the_cost_counts_the_graphs_that_are_judged(clock: Path) -> None:
    """A prologue of each target for a CPU, but none without weights, and none for GPUs."""
    task = task_of(options(clock))
    graphs = [_count_judged_graphs(replace(task, targets=(load_target(name),))) for name in (EXACT_TARGET, "tensorrt")]
    assert graphs == [1, 0] and _count_judged_graphs(replace(task, targets=(task.targets[0],) * 2)) == 2
    other = write_bundle(clock.parent / "plain", denoiser())
    assert _count_judged_graphs(task_of(options(other))) == 0


def test_of_two_networks_each_has_a_prologue_in_int8(clock: Path) -> None:
    """The denoiser does not run the first steps of the plan."""
    manifest = open_bundle(clock).manifest
    other = entry("graphs/other.onnx", timed())
    expert = NetworkEntry(
        **{"until": -0.5, "prediction": manifest.prediction, "inputs": {}, "bodies": manifest.bodies},
        **{"source": "noisy", "source_sha256": "0" * 64, "prologue": other},
    )
    change_bundle(clock, {other.file: content_of(timed())}, networks={"noisy": expert})
    result = calibrate(replace(options(clock), plan="ddim:4"))
    bodies = result.bodies[BODY], result.others["noisy"].bodies[BODY]
    covered = [body.replaces["prologue"].coverage for body in bodies]
    assert [coverage and coverage.int8_ops for coverage in covered] == [("p0", "p1")] * 2


def test_products_that_lose_too_much_in_int8_have_weights_of_8_bits(
    clock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_int8(monkeypatch)
    own = calibrated(clock).bodies[BODY].replaces["prologue"]
    assert own.coverage is None and (clock / own.file).stat().st_size < (clock / "graphs/prologue.onnx").stat().st_size


def test_openvino_has_int8_forms_of_a_prologue_and_a_conditioner(bundle: Path, clock: Path) -> None:
    pytest.importorskip("openvino")
    pictures = np.random.default_rng(1).uniform(-1, 1, (4, *PICTURE)).astype(np.float32)
    for path, name, condition in ((bundle, "conditioner", {"class": pictures}), (clock, "prologue", None)):
        calibrate(replace(options(path), target=("openvino-no-vnni",)))
        assert open_bundle(path).manifest.bodies["int8-openvino-no-vnni"].replaces.keys() == {name}
        samples = [
            load(path, body=body, backend=OpenVino()).sample("ddim:2", range(4), condition)
            for body in ("float32", "int8-openvino-no-vnni")
        ]
        assert 0 < np.square(samples[1] - samples[0]).mean() < 1e-3


def test_a_prologue_of_8_bits_runs_on_openvino(clock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not compared with onnxruntime, which rounds what the products read."""
    pytest.importorskip("openvino")
    monkeypatch.setattr(openvino_agreement, "_measure_difference", lambda *given: 0.0 if given[2] == "float32" else 1.0)
    calibrate(replace(options(clock), target=("int8-weights",)))
    assert open_bundle(clock).manifest.bodies["int8-weights"].replaces.keys() == {"prologue"}
    given = {"plan": "ddim:2", "seeds": range(4)}
    exact = load(clock).sample(**given)
    stored = load(clock, "int8-weights", backend=OpenVino()).sample(**given)
    assert 0 < np.square(stored - exact).mean() < 1e-3


def shifted(graph: Graph) -> Graph:
    return replace(graph, constants={**graph.constants, "half": graph.constants["half"] + np.float32(2)})


def spoil_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(graph: Graph, table: RangesTable, target: Target, floats: Sequence[str]) -> LoweredBody:
        return replace(lowered := lower(graph, table, target, floats), graph=shifted(lowered.graph))

    monkeypatch.setattr(replaced_graphs, "lower", spoil)


def test_a_conditioner_that_loses_too_much_stays_float(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_int8(monkeypatch)
    assert calibrated(bundle).bodies[BODY].replaces == {}


@pytest.mark.parametrize(("limit", "replaced"), [(-9.0, {"conditioner"}), (-0.1, set[str]())])
def test_a_judge_decides_instead_of_psnr(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, replaced: set[str]
) -> None:
    file = tmp_path / "own.py"
    file.write_text("def near(samples, reference, conditions, limit: float):\n")
    file.write_text(f"{file.read_text()}    return -abs(samples - reference).max(axis=(1, 2, 3)), limit\n")
    spoil_int8(monkeypatch)
    result = calibrate(replace(options(bundle), judge=f"{file}:near:{limit}"))
    assert result.bodies[BODY].replaces.keys() == replaced


def test_wide_sums_are_for_bodies_with_the_conditioner(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrated(bundle)
    monkeypatch.setattr(onnxruntime, "needs_wide_sums", lambda target, platform: target == EXACT_TARGET)
    opened = open_bundle(bundle)
    assert onnxruntime.needs_wide_sums_of(opened.with_graphs_of(BODY), "conditioner")
    assert not onnxruntime.needs_wide_sums_of(opened, "conditioner")


def test_a_share_that_would_read_as_zero_is_named_as_less() -> None:
    assert replaced_graphs.describe_share(0.0004) == "less than 0.1 %"
