"""Layers that only see some rows: an expert's tensors have no values if no row is routed to it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.ranges.histogram import make_histogram
from fewstep.calibration.ranges.observe import Counts
from fewstep.calibration.ranges.read_table import load as load_table
from fewstep.calibration.ranges.table import Range
from fewstep.graph.graph import BATCH, Graph, Node, Value
from fewstep.graph.index import sort_topologically
from fewstep.measure.rollouts.row_by_row import run_row_by_row
from fewstep.runtime.backends import Arrays
from fewstep.runtime.sampling.loading import load
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle
from tests.onnx_text import graph_of_text

AT_LEAST = {"early": 0.05, "never": 1.0}  # of time / 1000, for a row to reach the expert
TARGETS = ("cpu-x86", "cpu-arm", "tensorrt")


def experts() -> Graph:
    """The denoiser of `test_calibrate` with two experts after its middle layer. Each replaces the rows routed to it."""
    plain = denoiser()
    rng = np.random.default_rng(1)
    nodes = [Node("Floor", ("row",), ("whole",)), Node("Sub", ("row", "whole"), ("part",))]
    constants, before = {"zero": np.array(0), "last": np.array([1])}, "a1"
    for name, least in AT_LEAST.items():
        constants |= {
            f"{name}_least": np.float32(least),
            f"{name}_w": (rng.standard_normal((16, 16, 1, 1)) / 4).astype(np.float32),
        }
        text = """() => () {
            NAME_mask = Greater(part, NAME_least) NAME_found = NonZero(NAME_mask) NAME_rows = Gather(NAME_found, zero)
            NAME_x = Gather(BEFORE, NAME_rows) NAME_y = Conv(NAME_x, NAME_w)
            NAME_index = Unsqueeze(NAME_rows, last) NAME_out = ScatterND(BEFORE, NAME_index, NAME_y)
        }"""
        nodes += graph_of_text(text.replace("NAME", name).replace("BEFORE", before)).nodes
        before = f"{name}_out"
    *head, tail = plain.nodes
    every = (*head, *nodes, replace(tail, inputs=(before, "w2")))
    ordered = sort_topologically(every, ["x", "row", *plain.constants, *constants])
    return replace(plain, nodes=ordered, constants={**plain.constants, **constants})


def test_an_expert_without_rows_at_a_step_takes_what_it_saw_at_others_and_one_that_never_had_any_stays_in_float(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = write_bundle(tmp_path / "bundle", experts())
    made = calibrate(replace(FIRST, bundle=bundle, target=TARGETS))
    assert "activations without values at some steps use the ranges of other steps: 'early_x', 'early_y'" in caplog.text
    assert (
        "without values at any step; the operations that read them stay in float: 'never_x', 'never_y'" in caplog.text
    )
    assert made.table.unseen == ("never_x", "never_y") and "never_x" not in made.table.tensors
    first, second, third = made.table["early_x"].per_group  # by lambda: the last step, at time 33, is the third
    assert third == Range(min(first.low, second.low), max(first.high, second.high)) == made.table["early_x"].pooled
    for target in TARGETS:
        coverage = made.lowered[f"int8-{target}"].coverage
        (trial,) = made.manifest.bodies[f"int8-{target}"].trials
        assert {*coverage.int8_ops, *trial.in_float} == {"h1", "early_y"} and "never_y" in coverage.float_ops
    assert made.manifest.ranges and load_table(bundle / made.manifest.ranges) == made.table
    given = {"seeds": range(4), "condition": {"class": [0, 1] * 2}, "guidance": 2.0}
    exact = load(bundle).sample("ddim:3", **given)
    error = load(bundle, "int8").sample("ddim:3", **given) - exact
    assert 0 < np.square(error).mean() < 1e-3 * np.square(exact).mean()


def test_counts_are_completed_by_all_that_other_groups_held() -> None:
    counts = Counts(("a", "b", "c"), (0.0, 1.0))
    held = {("a", 0): [-3.0, 1.0], ("a", 2): [0.5, 2.0], ("b", 0): [1.0], ("b", 1): [2.0], ("b", 2): [3.0]}
    counts.histograms |= {key: make_histogram(np.array(values, np.float32)) for key, values in held.items()}
    found = counts.fill_unseen_groups()
    assert (found.tensors, found.unseen) == (("a", "b"), ("c",))
    (low, high, total) = ((each := found.group_histograms("a")[1]).low, each.high, each.stored.sum())
    assert (low, high, total) == (-3.0, 2.0, 4)
    assert found.group_histograms("b") == counts.group_histograms("b") and found.group_histograms("a")[::2] == (
        counts.histograms["a", 0],
        counts.histograms["a", 2],
    )


def test_rows_of_any_number_are_put_together_in_order() -> None:
    """A row of x becomes as many rows as its first number says: none, five, one and three."""
    x = np.array([[0, 7], [5, 8], [1, 9], [3, 6]], np.float32)

    def network(feeds: Arrays) -> dict[str, np.ndarray]:
        (row,) = feeds["x"]
        return {"rows": np.full((int(row[0]), 2), row[1], np.float32), "x": feeds["x"]}

    made = run_row_by_row(network, (Value("x", np.dtype(np.float32), (BATCH, 2)),))
    for order in ([0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 1, 0]):
        found = made({"x": x[order]})
        expected = np.repeat(x[order][:, 1:], x[order][:, 0].astype(int), axis=0).repeat(2, axis=1)
        np.testing.assert_array_equal(found["rows"], expected)
        np.testing.assert_array_equal(found["x"], x[order])
