"""Corrections of what int8 shifts, and where they go."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from choices import body_bias
from choices.bias import correct, with_sums
from choices.body_bias import body_corrections
from choices.shifts import Shifts

from fewstep.calibration import count
from fewstep.calibration.calibrate import open_task
from fewstep.calibration.count import count_activations, ranges_table
from fewstep.graph.graph import GROUP, Graph
from fewstep.graph.selection import selected_ops
from fewstep.graph.session import open_session, run
from fewstep.lowering.quantize import lower_graph
from fewstep.lowering.scheme import Target
from fewstep.lowering.targets.cpu_x86 import CPU_X86
from fewstep.lowering.targets.tensorrt import TENSORRT
from fewstep.ranges import observe
from fewstep.runtime.backends import LoadedGraph
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle
from tests.lowering.bodies.small_body import EDGES, SELECTED, body, feeds, table
from tests.rollouts.test_row_by_row import unsteady

BEHIND = {"h2": "h2_biased", "shortcut": "shortcut_biased", "mixed": "mixed_biased", "h3": "h3_biased"}


def channels(prepared: Graph, name: str) -> int:
    op = next(op for op in selected_ops(prepared) if op.name == name)
    return prepared.constants[op.weight].shape[op.axis]


@pytest.mark.parametrize("spatial", [1, 2])
@pytest.mark.parametrize("edges", [EDGES, ()])
def test_corrections_of_a_group_are_added_behind_the_operation(spatial: int, edges: tuple[float, ...]) -> None:
    prepared = body(spatial)
    groups = len(edges) + 1
    given = feeds(prepared)
    plain, ops, _ = lower_graph(prepared, table(prepared, edges), with_sums(CPU_X86))
    for name, behind in BEHIND.items():
        rng = np.random.default_rng(0)
        corrections = {name: rng.standard_normal((groups, channels(prepared, name)))}
        corrected = correct(plain, ops, corrections)
        for group in range(groups):
            at = given | {GROUP: np.array([group])}
            before, after = (open_session(graph, [behind])(at)[behind] for graph in (plain, corrected))
            shift = corrections[name][group]
            shaped = shift if name == "mixed" else shift.reshape(-1, *[1] * spatial)
            np.testing.assert_allclose(after - before, np.broadcast_to(shaped, after.shape), atol=1e-5)


@pytest.mark.parametrize("target", [CPU_X86, TENSORRT], ids=lambda target: target.name)
def test_a_corrected_body_keeps_its_integer_kernels_and_its_operations(target: Target) -> None:
    prepared = body()
    corrections = {name: np.ones((3, channels(prepared, name))) for name in SELECTED}
    plain, ops, _ = lower_graph(prepared, table(prepared, EDGES), with_sums(target))
    corrected = correct(plain, ops, corrections)
    coverage = target.check(prepared, corrected, ops)
    assert coverage == target.check(prepared, plain, ops) and set(coverage.int8_ops) == set(SELECTED)
    extra = [node.op for node in corrected.nodes if node not in plain.nodes]
    assert sorted(extra) == sorted(["Add"] * 4 + ["Gather"] * 4)


def test_an_operation_without_a_bias_behind_it_keeps_its_error() -> None:
    prepared = body()
    nodes = [
        replace(node, inputs=(node.inputs[0], "row")) if node.output == "h2_biased" else node for node in prepared.nodes
    ]
    bare = replace(prepared, nodes=tuple(nodes))
    ops = selected_ops(bare)
    assert correct(bare, ops, {"h2": np.ones((1, 32))}) == bare


def test_shifts_are_means_where_windows_are_merged_with_the_batch_of_one_operation_alone() -> None:
    ops = selected_ops(body())
    shifts, rng = Shifts(ops, 1), np.random.default_rng(0)
    for samples in (2, 3):
        rows = {op.name: samples * (4 if op.name == "h2" else 1) for op in ops}
        approximate = {op.name: rng.standard_normal((rows[op.name], 32, 32)).astype(np.float32) for op in ops}
        shifts.add({name: value.astype(np.float64) + 1 for name, value in approximate.items()}, approximate, 0)
    for op in ops:
        np.testing.assert_allclose(shifts.corrections()[op.name], np.ones((1, 32)), atol=1e-9)


def test_shifts_are_means_per_channel_whatever_the_batches() -> None:
    prepared = body()
    ops = selected_ops(prepared)
    lowered, _, _ = lower_graph(prepared, table(prepared, EDGES), CPU_X86)
    given = feeds(prepared)
    names = [op.name for op in ops]
    exact = run(prepared, given, names)
    found = open_session(lowered, names)(given | {GROUP: np.array([1])})
    count = len(next(iter(given.values())))
    assert count > 1
    sums = []
    for order in ([slice(0, count)], [slice(i, i + 1) for i in reversed(range(count))]):
        shifts = Shifts(ops, 1)
        for part in order:
            shifts.add({n: exact[n][part] for n in names}, {n: found[n][part] for n in names}, 0)
        sums.append(shifts.corrections())
    for name in names:
        assert np.array_equal(sums[0][name], sums[1][name])
        axes = (0, 1) if name == "mixed" else (0, 2, 3)
        difference = exact[name].astype(np.float64) - found[name]
        np.testing.assert_allclose(sums[0][name][0], difference.mean(axis=axes), atol=1e-9)


def test_corrections_of_a_body_are_bitwise_those_of_one_sample_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On engines whose last bits, and more, change with the number of rows."""

    def opened(graph: Graph, also: Iterable[str] = (), optimize: bool = False, threads: int = 0) -> LoadedGraph:
        return unsteady(open_session(graph, also, optimize), "x")

    task = open_task(replace(FIRST, bundle=write_bundle(tmp_path / "bundle", denoiser()), trajectories=16))
    ranges = ranges_table(count_activations(task), task.prepared, "0" * 64, task.plan.name, "mse")
    for module in (observe, body_bias):
        monkeypatch.setattr(module, "open_session", opened)
    found = set()
    for batch in (1, 4, 16):
        monkeypatch.setattr(count, "BATCH", batch)
        found.add(body_corrections(task, ranges, CPU_X86)["h1"].tobytes())
    assert len(found) == 1
