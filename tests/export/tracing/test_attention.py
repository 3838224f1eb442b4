"""Attention with a mask, and of ranks other than 4: equal to torch, also in rows without a key, and in forms that
passes recognize.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.tracing.capture import capture
from fewstep.graph.graph import Array, Graph
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.rounding import round_to
from fewstep.graph.passes.split_attention import split_attention
from fewstep.graph.prepare import simplify
from fewstep.graph.session import run
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.sampling.loading import load
from tests.export.networks import masked

N, LOWEST = 6, torch.finfo(torch.float32).min
HEADS = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 2, N, 4), np.float32))
MASKS = np.array([[0] * N, [1] * N, [1] + [0] * (N - 1), [0] * (N - 1) + [1], [0, 1, 1, 0, 0, 1]], np.float32)
FEEDS: dict[str, Any] = {"x": HEADS.numpy(), "mask": MASKS}
Form = Callable[[Tensor, Tensor], Tensor]  # [B, 2, N, 4] heads and [B, N] mask -> [B, ...]


def infinite(mask: Tensor) -> Tensor:
    return torch.where(mask > 0, 0.0, -torch.inf)


def one(mask: Tensor) -> Tensor:
    return (mask > 0)[:, None, None, None]


FORMS: dict[str, Form] = {
    "bool": lambda h, m: attend(h, h, h, attn_mask=(m > 0)[:, None, None]),
    "infinite": lambda h, m: attend(h, h, h, infinite(m)[:, None, None]),
    "lowest": lambda h, m: attend(h, h, h, ((1 - m) * LOWEST)[:, None, None]),  # the mean, of rows without a key
    "three_axes": lambda h, m: attend(h[:, 0], h[:, 0], h[:, 0], (m > 0)[:, None]),
    "three_axes_causal": lambda h, m: attend(h[:, 0], h[:, 0], h[:, 0], is_causal=True) + m[:, :, None],
    "constant": lambda h, m: attend(h, h, h, torch.ones(N, N, dtype=torch.bool)) * m[:, None, :, None],
    "constant_causal": lambda h, m: attend(h, h, h, torch.ones(N, N, dtype=torch.bool).tril()) * m[:, None, :, None],
    "none": lambda h, m: attend(h, h, h) * m[:, None, :, None],
}
RARE: dict[str, Form] = {
    "bool_of_queries": lambda h, m: attend(h, h, h, attn_mask=((m > 0)[:, None, :, None] & (m > 0)[:, None, None])),
    "finite": lambda h, m: attend(h, h, h, ((1 - m) * -1e4)[:, None, None]),
    "grouped": lambda h, m: attend(h, h[:, :1], h[:, :1], (m > 0)[:, None, None], enable_gqa=True),
    "three_axes_infinite": lambda h, m: attend(h[:, 0], h[:, 0], h[:, 0], infinite(m)[:, None]),
    "causal_of_fewer_keys": lambda h, m: attend(h[:, 0], h[:, 0, :3], h[:, 0, :3], is_causal=True) + m[:, :, None],
    "five_axes": lambda h, m: attend(h[:, None], h[:, None, :1], h[:, None, :1], one(m), enable_gqa=True),
    "constant_infinite": lambda h, m: attend(h, h, h, torch.zeros(N, N)) * m[:, None, :, None],
}  # fmt: skip
EACH = [*FORMS, *(pytest.param(form, marks=pytest.mark.slow) for form in RARE)]


class Attention(nn.Module):
    """Several forms at once, since tracing takes longer than running."""

    def __init__(self, forms: dict[str, Form]) -> None:
        super().__init__()
        self.forms = forms

    def forward(self, heads: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return tuple(form(heads, mask) for form in self.forms.values())


@cache
def capture_forms(is_rare: bool) -> Graph:
    batch, forms = {0: torch.export.Dim("batch")}, RARE if is_rare else FORMS
    return capture(Attention(forms), (HEADS, torch.from_numpy(MASKS)), (batch, batch), ["x", "mask"], [*forms])[0]


def graph_of(form: str) -> Graph:
    """Return the exported graph, without the other forms."""
    graph = capture_forms(form in RARE)
    outputs = tuple(value for value in graph.outputs if value.name == form)
    return drop_unused(Graph(form, graph.inputs, outputs, graph.nodes, graph.constants))


def torch_result(form: str) -> Array:
    """Return torch's result."""
    return (FORMS | RARE)[form](HEADS, torch.from_numpy(MASKS)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("form", EACH)
def test_every_form_equals_torch_at_each_mask(form: str) -> None:
    exact, exported = torch_result(form), graph_of(form)
    assert np.isfinite(exact).all()
    for graph in (exported, simplify(exported)):
        np.testing.assert_allclose(run(graph, FEEDS)[form], exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["bool", "infinite", "three_axes"])
def test_a_row_without_a_key_is_zero_and_its_softmax_finite(form: str) -> None:
    """NaN there would spoil the ranges of a calibration."""
    graph = simplify(graph_of(form))
    weights = next(node.output for node in graph.nodes if node.op == "Softmax")
    found = run(graph, FEEDS, also=[weights])
    assert np.isfinite(found[weights]).all() and not found[form][0].any() and found[form][1:].any()


@pytest.mark.parametrize("form", ["bool", "infinite", "lowest"])
def test_float16_tells_infinite_masks_from_those_of_the_lowest_number(form: str) -> None:
    found = run(round_to(simplify(graph_of(form)), FLOAT16), FEEDS)[form]
    np.testing.assert_allclose(found, torch_result(form), rtol=0, atol=1e-2)


@pytest.mark.parametrize("form", ["constant", "constant_causal", "three_axes_causal", "none"])
def test_a_constant_mask_and_no_mask_cost_no_selection(form: str) -> None:
    assert {"Where", "Clip", "ReduceMax", "Greater"}.isdisjoint(simplify(graph_of(form)).ops())


@pytest.mark.parametrize("form", ["bool", "infinite"])
def test_masked_attention_is_computed_in_parts(form: str) -> None:
    whole = simplify(graph_of(form))
    parted = split_attention(whole, 1)
    assert (whole.ops().count("Softmax"), parted.ops().count("Softmax")) == (1, 2)
    np.testing.assert_array_equal(run(parted, FEEDS)[form], run(whole, FEEDS)[form])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["boolean", "infinite"])
def test_every_body_predicts_zero_where_no_token_is_kept(form: str, tmp_path: Path) -> None:
    """Also with the null value, a mask of zeros in guidance of a text model."""
    bundle = tmp_path / "bundle"
    export(ExportOptions(f"{masked.__file__}:{form}", bundle, verify="quick"))
    calibrate(CalibrateOptions(bundle, plan="ddim:2", guidance=2.0, trajectories=4, target=("cpu-x86", "openvino")))
    rng = np.random.default_rng(0)
    text = rng.uniform(-1, 1, (2, masked.TOKENS, 8)).astype(np.float32)
    x, masks = rng.standard_normal((2, 12, 4), np.float32), np.array([[0], [1]]).repeat(masked.TOKENS, axis=1)
    for precision in ("float32", "int8"):
        for backend in (None, OpenVino()):
            with load(bundle, precision, backend=backend) as sampler:
                empty, full = sampler.evaluate(x, 500.0, {"text": text, "mask": masks})
            assert np.abs(empty).max() < 1e-6 and np.abs(full).max() > 1e-3
