"""Padding before an average pool stays apart from it, since onnxruntime computes padded average pools incorrectly."""

import numpy as np
import pytest

from fewstep.graph.graph import Array, Graph
from fewstep.graph.passes.average_pool import separate_pool_padding
from fewstep.graph.session import open_session, run
from tests.bundles import node, small, value

X = np.random.default_rng(0).standard_normal((2, 3, 9, 9)).astype(np.float32)


def padded_pool(pads: list[int], **attributes: object) -> Graph:
    """A Pad of the last two axes, then an average pool of windows of 2 x 2."""
    after = node("AveragePool", "p", "y", kernel_shape=[2, 2], strides=[2, 2], **attributes)
    ports = [value("x", "batch", 3, 9, 9)], [value("y", "batch", 3, "height", "width")]
    return small(*ports, [node("Pad", "x pads", "p"), after], pads=[0, 0, *pads[:2], 0, 0, *pads[2:]])


def mean_of_windows(x: Array, pads: list[int]) -> Array:
    """The means of windows of 2 x 2, of those parts that lie inside the padded image."""
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    rows, columns = (range(0, size, 2) for size in padded.shape[2:])
    windows = [[padded[:, :, i : i + 2, j : j + 2].mean((2, 3)) for j in columns] for i in rows]
    return np.moveaxis(np.array(windows), (0, 1), (2, 3))


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 1]])
def test_a_padded_pool_is_the_mean_of_its_windows(pads: list[int], counted: int, ceil: int) -> None:
    graph = padded_pool(pads, count_include_pad=counted, ceil_mode=ceil)
    expected = mean_of_windows(X, pads)
    if not ceil:
        expected = expected[:, :, : (9 + pads[0] + pads[2]) // 2, : (9 + pads[1] + pads[3]) // 2]
    output = open_session(separate_pool_padding(graph), optimize=True)({"x": X})["y"]
    np.testing.assert_allclose(output, expected, atol=1e-6)


def pool(size: int = 9, **attributes: object) -> Graph:
    """An average pool of windows of 2 x 2 or `kernel_shape`, each two pixels from the next."""
    average = node("AveragePool", "x", "y", **{"kernel_shape": [2, 2], "strides": [2, 2], **attributes})
    return small([value("x", "batch", 3, size, size)], [value("y", "batch", 3, "height", "width")], [average])


def test_one_sided_padding_moves_to_a_pad() -> None:
    after = separate_pool_padding(pool(pads=[0, 0, 1, 1], count_include_pad=1))
    assert [step.op for step in after.nodes] == ["Pad", "AveragePool"]
    assert {"pads", "count_include_pad"}.isdisjoint(after.nodes[1].attributes)
    np.testing.assert_allclose(run(after, {"x": X})["y"], mean_of_windows(X, [0, 0, 1, 1]), atol=1e-6)


@pytest.mark.parametrize(("size", "window", "pad"), [(9, 2, 0), (8, 3, 0), (10, 3, 1), (8, 3, 1), (9, 4, 1)])
def test_counted_padding_of_a_size_that_is_rounded_up_moves_too(size: int, window: int, pad: int) -> None:
    attributes = {"kernel_shape": [window] * 2, "pads": [pad] * 4, "count_include_pad": 1, "ceil_mode": 1}
    before, x = pool(size, **attributes), X[:, :, :1, :1] * np.ones((1, 1, size, size), np.float32)
    x = x + np.arange(size, dtype=np.float32)
    after = separate_pool_padding(before)
    assert [step.op for step in after.nodes] == ["Pad", "AveragePool"][not pad :]
    assert "count_include_pad" not in after.nodes[-1].attributes
    np.testing.assert_allclose(run(after, {"x": x})["y"], run(before, {"x": x})["y"], atol=1e-5)


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize(("mode", "pads"), [(b"SAME_UPPER", [0, 0, 1, 1]), (b"SAME_LOWER", [1, 1, 0, 0])])
def test_automatic_padding_on_one_side_moves_to_a_pad(mode: bytes, pads: list[int], ceil: int) -> None:
    after = separate_pool_padding(pool(auto_pad=mode, count_include_pad=1, ceil_mode=ceil))
    assert [step.op for step in after.nodes] == ["Pad", "AveragePool"]
    assert {"auto_pad", "pads", "count_include_pad"}.isdisjoint(after.nodes[1].attributes)
    np.testing.assert_allclose(run(after, {"x": X})["y"], mean_of_windows(X, pads), atol=1e-6)


@pytest.mark.parametrize(("window", "stride", "pads"), [(2, 1, (0, 1)), (4, 3, (0, 1)), (5, 2, (2, 2)), (4, 2, (1, 2))])
@pytest.mark.parametrize("mode", [b"SAME_UPPER", b"SAME_LOWER"])
def test_counted_automatic_padding_is_zeros(mode: bytes, window: int, stride: int, pads: tuple[int, int]) -> None:
    graph = pool(kernel_shape=[window] * 2, strides=[stride] * 2, auto_pad=mode, count_include_pad=1)
    after = separate_pool_padding(graph)
    assert [step.op for step in after.nodes] == ["Pad", "AveragePool"][pads[0] == pads[1] :]
    padded = np.pad(X, ((0, 0), (0, 0), *[pads if mode == b"SAME_UPPER" else pads[::-1]] * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (window, window), (2, 3))[:, :, ::stride, ::stride]
    np.testing.assert_allclose(run(after, {"x": X})["y"], windows.mean((4, 5)), atol=1e-6)


def test_automatic_padding_of_a_free_size_stays() -> None:
    average = node(
        "AveragePool", "x", "y", kernel_shape=[2, 2], auto_pad=b"SAME_UPPER", count_include_pad=1, ceil_mode=1
    )
    graph = small([value("x", "batch", 3, "height", 8)], [value("y", "batch", 3, "out", "width")], [average])
    assert separate_pool_padding(graph).nodes == graph.nodes


@pytest.mark.parametrize(
    "attributes",
    [
        {"auto_pad": b"SAME_UPPER"},
        {"auto_pad": b"SAME_UPPER", "dilations": [3, 3], "count_include_pad": 1},
        {"auto_pad": b"SAME_UPPER", "kernel_shape": [1, 1], "count_include_pad": 1, "ceil_mode": 1},  # no padding
        {"pads": [1, 1, 1, 1], "count_include_pad": 1},
        {"pads": [0, 0, 1, 1]},
        {"pads": [0, 0, 1, 1], "ceil_mode": 1},
        {"pads": [1, 1, 1, 1], "count_include_pad": 1, "ceil_mode": 1},  # the sixth window would begin in the padding
        {},
    ],
)
def test_other_pools_stay(attributes: dict[str, object]) -> None:
    graph = pool(**attributes)
    assert separate_pool_padding(graph).nodes == graph.nodes


def test_a_free_size_with_ceil_mode_stays() -> None:
    average = node(
        "AveragePool", "x", "y", kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2], count_include_pad=1, ceil_mode=1
    )
    graph = small([value("x", "batch", 3, "height", 8)], [value("y", "batch", 3, "out", "width")], [average])
    assert separate_pool_padding(graph).nodes == graph.nodes


def test_a_second_pass_changes_nothing() -> None:
    once = separate_pool_padding(padded_pool([0, 0, 1, 1]))
    assert [len(step.inputs) for step in once.nodes] == [4, 1]
    assert separate_pool_padding(once).nodes == once.nodes


def test_a_pad_before_another_operation_stays() -> None:
    graph = small(
        [value("x", "batch", 3, 9, 9)],
        [value("y", "batch", 3, 10, 10)],
        [node("Pad", "x pads", "p"), node("Relu", "p", "y")],
        pads=[0, 0, 0, 0, 0, 0, 1, 1],
    )
    assert separate_pool_padding(graph).nodes == graph.nodes
