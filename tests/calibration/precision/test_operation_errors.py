"""The error of each operation, found by runs of one gated body."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.lowering.quantize import (
    cache_quantizer,
    choose_encodings,
    lower,
    make_quantizer,
    select_measured_ops,
)
from fewstep.calibration.lowering.targets import load_target
from fewstep.calibration.policy import POLICY
from fewstep.calibration.precision import operation_errors
from fewstep.calibration.precision.operation_errors import (
    attribute_errors,
    measure_operation_errors,
    round_weight,
)
from fewstep.calibration.precision.quantization_gates import GATES, add_quantization_gates
from fewstep.graph.graph import Graph
from fewstep.graph.session import open_session, run
from fewstep.measure.rollouts.on_demand import LazyOnnxRuntime
from fewstep.measure.rollouts.recorded_run import record_run
from fewstep.measure.rollouts.row_by_row import with_row_by_row_prologue
from fewstep.measure.rollouts.seeds import SEARCH_SEEDS
from fewstep.runtime.sampling.loading import load
from tests.calibration.lowering.bodies.small_body import feeds, table
from tests.calibration.lowering.bodies.uneven_channels_body import given, layer, seen
from tests.calibration.lowering.targets.test_cpu_x86 import attending
from tests.calibration.precision.deep_body import LAYERS, deep
from tests.calibration.precision.deep_body import run as calibrated
from tests.calibration.test_calibrate import write_bundle
from tests.exact_int8 import open_exact


@pytest.mark.parametrize("target", ["cpu-x86", "openvino"])
@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
def test_gates_go_from_float_to_the_roundings_of_int8(kind: str, target: str) -> None:
    graph, scheme = layer(kind), load_target(target).scheme
    table, fed = seen(graph, given(graph)), given(graph)
    ops = select_measured_ops(graph, table, scheme)
    codes, exact = choose_encodings(graph, table, ops, scheme), run(graph, fed)["output"]
    quantize = cache_quantizer(make_quantizer(load_target(target)))
    weights = {"b": round_weight(ops[0], graph, codes, quantize)}
    body = open_session(add_quantization_gates(graph, ops, codes, scheme, weights), fuse_qdq=False)
    half, whole = (body({**fed, GATES: np.full(len(ops), share, np.float32)})["output"] - exact for share in (0.5, 1))
    assert len(ops) == 1 and not (body({**fed, GATES: np.zeros(1, np.float32)})["output"] - exact).any()
    assert 0.3 < np.square(half).sum() / np.square(whole).sum() * 2 < 0.7  # a half of the error of both ends
    lowered = lower(graph, table, load_target(target), quantize=quantize).graph
    opened = open_exact(lowered) if target == "cpu-x86" else open_session(lowered, fuse_qdq=False)
    int8 = opened(fed)["output"] - exact
    assert np.square(whole - int8).sum() < 0.02 * np.square(int8).sum()


def test_errors_are_those_of_finished_samples(tmp_path: Path) -> None:
    """The errors of the layers of a deep body add up to that of all of them in int8."""
    bundle = write_bundle(tmp_path / "bundle", deep())
    made = calibrated(bundle)
    course = record_run(
        with_row_by_row_prologue(load(bundle, body="float32", backend=LazyOnnxRuntime())), made.plan, SEARCH_SEEDS[:4]
    )
    target, table = load_target("cpu-x86"), made.table
    errors = measure_operation_errors(
        deep(), table, target, course, cache_quantizer(make_quantizer(target)), POLICY.most_error_runs
    )
    body = open_exact(lower(deep(), table, target).graph, optimize=True)
    psnr = course.decibels(course.run([body] * course.groups))
    whole = float(np.mean(4 / 10 ** (psnr / 10)))
    assert len(errors.operations) == LAYERS and errors.errors.sum() == pytest.approx(whole, rel=0.6)
    unrounded = measure_operation_errors(deep(), table, target, course, None, POLICY.most_error_runs)
    assert unrounded.errors == pytest.approx(errors.errors, rel=0.6) and (unrounded.errors < errors.errors).any()


class Opened(Exception):
    """The graph that a session was opened for."""


def test_attention_of_a_large_network_is_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scores would take more memory than the weights."""

    def open_nothing(graph: Graph, **_: object) -> None:
        raise Opened(graph)

    prepared = attending()
    monkeypatch.setattr(operation_errors, "exceeds_one_file", lambda graph: True)
    monkeypatch.setattr(operation_errors, "open_session", open_nothing)
    with pytest.raises(Opened) as opened:
        measure_operation_errors(prepared, table(prepared), load_target("cpu-x86"), None, None, 4)  # type: ignore[arg-type]
    graph, fed = opened.value.args[0], feeds(prepared)
    (gates,) = (port for port in graph.inputs if port.name == GATES)
    assert (graph.ops().count("MultiHeadAttention"), graph.ops().count("Softmax")) == (1, 0)
    found = run(graph, {**fed, GATES: np.zeros(gates.shape, np.float32)})["output"]
    np.testing.assert_allclose(found, run(prepared, fed)["output"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("runs", "most"), [(64, 64), (20, 20)])
def test_groups_are_halved_where_runs_are_few(runs: int, most: int) -> None:
    asked: list[Sequence[int]] = []
    true = np.full(64, 1e-3)
    true[[5, 40]] = 1.0, 0.5

    def error(numbers: Sequence[int]) -> float:
        asked.append(numbers)
        return float(true[list(numbers)].sum())

    found = attribute_errors(error, 64, runs)
    assert len(asked) <= most and found.sum() == pytest.approx(true.sum())
    assert list(np.argsort(-found)[:2]) == [5, 40] and found[[5, 40]] == pytest.approx([1.0, 0.5], rel=0.01)
