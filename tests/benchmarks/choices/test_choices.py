"""What the ablation compares with: rounding by second moments."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.choices.gptq import gptq
from benchmarks.choices.hessians import as_rows, drawn_patches, layer_hessians
from benchmarks.choices.normal_times import LONG, count_at_normal_times, drawn_steps
from fewstep.calibration.opening import open_task
from fewstep.graph.selection import selected_ops
from fewstep.graph.session import run
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle
from tests.lowering.bodies.small_body import body, feeds


@pytest.fixture(scope="module")
def layer() -> tuple[np.ndarray, np.ndarray]:
    """Weights [16, 72], and the second moments of inputs that go together, as neighbouring pixels do."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((2048, 12)) @ rng.standard_normal((12, 72)), 0)
    return rng.standard_normal((16, 72)), x.T @ x / len(x)


@pytest.mark.parametrize("largest", [127, 7])
def test_rounding_by_second_moments_loses_less_than_half_of_what_nearest_does(
    layer: tuple[np.ndarray, np.ndarray], largest: int
) -> None:
    rows, hessian = layer
    scales = np.abs(rows).max(axis=1) / largest

    def lost(integers: np.ndarray) -> float:
        """tr(E H E^T), E the error of the weights."""
        assert np.array_equal(integers, np.rint(integers)) and np.abs(integers).max() <= largest
        error = integers * scales[:, None] - rows
        return float(np.einsum("oi,ij,oj->o", error, hessian, error).mean())

    assert lost(gptq(rows, scales, hessian, largest)) < 0.3 * lost(np.rint(rows / scales[:, None]))


def test_without_correlation_nearest_is_best() -> None:
    rows = np.random.default_rng(1).uniform(-7, 7, (4, 32))
    np.testing.assert_array_equal(gptq(rows, np.ones(4), np.eye(32), 7), np.rint(rows))


@pytest.mark.parametrize("spatial", [1, 2])
def test_patches_times_weights_are_the_convolution(spatial: int) -> None:
    """Strides, pads and dilations; and the linear layer."""
    prepared = body(spatial)
    dilated = tuple(
        replace(node, attributes=dict(node.attributes) | {"dilations": [2] * spatial, "pads": [2] * 2 * spatial})
        if node.output == "h2"
        else node
        for node in prepared.nodes
    )
    prepared = replace(prepared, nodes=dilated)
    ops = selected_ops(prepared)
    values = run(prepared, feeds(prepared), [name for op in ops for name in (op.x, op.name)])
    for op in ops:
        weight = prepared.constants[op.weight]
        kernel = weight.shape[2:] if op.node.op == "Conv" else ()
        patches = drawn_patches(op, values[op.x], kernel, np.random.default_rng(0), 10**6)
        channels = np.moveaxis(values[op.name], 1 if kernel else -1, -1).reshape(-1, weight.shape[op.axis])
        np.testing.assert_allclose(patches @ as_rows(op, weight).T, channels, atol=1e-4)
        few = drawn_patches(op, values[op.x], kernel, np.random.default_rng(0), 8)
        assert few.shape == (8, patches.shape[1]) and all((row == patches).all(axis=1).any() for row in few)


def test_second_moments_are_means_over_the_plan(tmp_path: Path) -> None:
    task = open_task(replace(FIRST, bundle=write_bundle(tmp_path / "bundle", denoiser())))
    (op,) = selected_ops(task.prepared)
    hessian = layer_hessians(task, [op])[op.name]
    assert hessian.shape == (16 * 9, 16 * 9) and np.array_equal(hessian, hessian.T)
    assert np.linalg.eigvalsh(hessian).min() > -1e-6 * hessian.max()


def test_normal_times_lean_to_the_clean_end_and_each_sample_counts_at_its_own(tmp_path: Path) -> None:
    """What falls outside [0, 1] goes to the ends: 16 % to the clean one."""
    index = np.array([step for seed in range(400) for step in drawn_steps(seed, 8, LONG)])
    inner = index[(index > 0) & (index < LONG - 1)]
    assert 1 - inner.mean() / LONG == pytest.approx(0.44, abs=0.03)
    assert (index == LONG - 1).sum() > (index == 0).sum() > 0
    task = open_task(replace(FIRST, bundle=write_bundle(tmp_path / "bundle", denoiser()), guidance=2.0))
    one = replace(task, edges=())
    drawn = sum(len(drawn_steps(seed, len(task.plan.steps), LONG)) for seed in task.seeds)
    assert count_at_normal_times(one).of("x")[0].stored.sum() == drawn * 2 * 64  # branches, numbers of x
