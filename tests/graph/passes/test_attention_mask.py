"""Attention with a mask as one MultiHeadAttention: its values, and queries without an unmasked key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.spec import Spec
from fewstep.graph.cuda.cuda_form import cuda_form
from fewstep.graph.files import io
from fewstep.graph.graph import Graph
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.passes.half import to_half
from fewstep.graph.session import run
from fewstep.runtime.bundle.reading import open_bundle
from tests.export.networks import masked
from tests.onnx_text import graph_of_text

RANDOM = np.random.default_rng(0)
HEADS = """(float[batch, 2, 5, 4] q, {mask} mask) => (float[batch, 2, 5, 4] y) {{
    k = Transpose <perm = [0, 1, 3, 2]> (q) s = MatMul(q, k) {between} y = MatMul(w, q) }}"""
SUM = "m = Add(s, mask) w = Softmax <axis = -1> (m)"


def heads(mask: str, between: str = SUM, **constants: Any) -> Graph:
    return graph_of_text(HEADS.format(mask=mask, between=between), **constants)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("mask", "shape", "written_as"),
    [
        ("float[5, 5]", (5, 5), ["Unsqueeze"]),
        ("float[2, 5, 5]", (2, 5, 5), ["Unsqueeze"]),
        ("float[batch, 1, 5, 5]", (3, 1, 5, 5), []),
        ("float[1, 2, 5, 5]", (1, 2, 5, 5), []),
        ("float[batch, 2, 5, 5]", (3, 2, 5, 5), []),
        ("float[batch, 1, 1, 5]", (3, 1, 1, 5), ["Expand"]),
        ("float[5]", (5,), ["Unsqueeze", "Expand"]),
    ],
)
def test_a_mask_of_any_axes_is_part_of_the_attention(mask: str, shape: tuple[int, ...], written_as: list[str]) -> None:
    before = heads(mask)
    form = cuda_form(before)
    assert form.ops().count("MultiHeadAttention") == 1 and "Softmax" not in form.ops()
    assert [op for op in form.ops() if op in ("Unsqueeze", "Expand")] == written_as
    feeds = {"q": normal(3, 2, 5, 4), "mask": 3 * normal(*shape)}
    np.testing.assert_allclose(run(form, feeds)["y"], run(before, feeds)["y"], rtol=1e-5, atol=1e-6)


def test_a_mask_without_heads_has_one() -> None:
    text = """(float[batch, 5, 4] q, float[batch, 5, 5] mask) => (float[batch, 5, 4] y) {
        k = Transpose <perm = [0, 2, 1]> (q) s = MatMul(q, k) a = Mul(s, half) m = Add(a, mask)
        w = Softmax <axis = -1> (m) y = MatMul(w, q) }"""
    before = graph_of_text(text, half=np.float32(0.5))
    form = cuda_form(before)
    assert form.ops() == ("Unsqueeze", "MultiHeadAttention")
    feeds = {"q": normal(3, 5, 4), "mask": normal(3, 5, 5)}
    np.testing.assert_allclose(run(form, feeds)["y"], run(before, feeds)["y"], rtol=1e-5, atol=1e-6)


def test_two_attentions_share_the_mask_of_one_tensor() -> None:
    text = """(float[batch, 2, 5, 4] q, float[batch, 1, 1, 5] mask) => (float[batch, 2, 5, 4] z) {
        k = Transpose <perm = [0, 1, 3, 2]> (q) s = MatMul(q, k) m = Add(s, mask) w = Softmax <axis = -1> (m)
        y = MatMul(w, q) l = Transpose <perm = [0, 1, 3, 2]> (y) t = MatMul(y, l) n = Add(t, mask)
        v = Softmax <axis = -1> (n) z = MatMul(v, y) }"""
    form = cuda_form(before := graph_of_text(text))
    assert [form.ops().count(op) for op in ("MultiHeadAttention", "Expand")] == [2, 1]
    feeds = {"q": normal(3, 2, 5, 4), "mask": normal(3, 1, 1, 5)}
    np.testing.assert_allclose(run(form, feeds)["z"], run(before, feeds)["z"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("mask", "between"),
    [
        ("float[batch, 1, 5, 1]", SUM),  # of all keys alike
        ("float[batch, 2, 5, 5]", "m = Add(s, mask) n = Add(m, mask) w = Softmax <axis = -1> (n)"),
        ("float[batch, 2, 5, 5]", "m = Add(s, mask) n = Mul(m, two) w = Softmax <axis = -1> (n)"),
    ],
    ids=["one key", "two masks", "scaled"],
)
def test_other_masks_stay(mask: str, between: str) -> None:
    before = heads(mask, between, **({"two": np.float32(2)} if "two" in between else {}))
    assert cuda_form(before).ops() == before.ops()


@pytest.mark.slow
@pytest.mark.parametrize("make", [masked.boolean, masked.infinite])
def test_an_exported_mask_is_fused_and_a_query_without_a_key_reads_0(
    tmp_path: Path, make: Callable[[], tuple[nn.Module, Spec]]
) -> None:
    """The selection of 0 follows the joined heads, so nothing is transposed."""
    export(ExportOptions(f"{masked.__file__}:{make.__name__}", tmp_path / "bundle", verify="quick"))
    bundle = open_bundle(tmp_path / "bundle")
    before = io.load(bundle.graph(bundle.body("float32").graph), root=bundle.path)
    form = cuda_form(before)
    assert [form.ops().count(op) for op in ("MultiHeadAttention", "Softmax", "Where")] == [1, 0, 1]
    lowest, feeds = np.finfo(np.float32).min, {value.name: normal(*_sizes(value.shape)) for value in before.inputs}
    bias = next(name for name, value in feeds.items() if value.shape == (3, 1, 1, masked.TOKENS))
    has_key = next(name for name, value in feeds.items() if value.shape == (3, 1, 1, 1))
    feeds[bias] = np.float32([[0] * 24, [lowest] * 24, [0] * 10 + [lowest] * 14])[:, None, None]
    feeds[has_key] = np.float32([24, 0, 10])[:, None, None, None]
    expected, found = run(before, feeds)["output"], run(form, feeds)["output"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not found[1].any() and found[[0, 2]].any()
    half = to_half(before, FLOAT16)
    np.testing.assert_allclose(run(cuda_form(half), feeds)["output"], run(half, feeds)["output"], rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    "condition", ["float[batch, 1, 5, 1]", "float[batch, 2, 5, 1]"], ids=["all heads", "each head"]
)
def test_a_selection_for_each_head_is_before_the_heads_are_joined(condition: str) -> None:
    text = f"""(float[batch, 2, 5, 4] q, float[5, 5] mask, {condition} c) => (float[batch, 5, 8] z) {{
        k = Transpose <perm = [0, 1, 3, 2]> (q) s = MatMul(q, k) {SUM} y = MatMul(w, q) b = Greater(c, zero)
        o = Where(b, y, zero) t = Transpose <perm = [0, 2, 1, 3]> (o) z = Reshape(t, whole) }}"""
    before = graph_of_text(text, zero=np.float32(0), whole=np.int64([0, 0, 8]))
    feeds = {"q": normal(3, 2, 5, 4), "mask": normal(5, 5), "c": normal(3, 2 if "2" in condition else 1, 5, 1)}
    form = cuda_form(before)
    assert form.ops().count("MultiHeadAttention") == 1
    np.testing.assert_allclose(run(form, feeds)["z"], run(before, feeds)["z"], rtol=1e-5, atol=1e-6)


def _sizes(shape: tuple[int | str, ...]) -> list[int]:
    return [3 if isinstance(size, str) else size for size in shape]
