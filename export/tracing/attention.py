"""Attention in the cases in which torch.onnx exports it with different results: rows for which a mask leaves no key,
and tensors whose rank is not 4.

torch's scaled_dot_product_attention returns 0 for a query without a key. A softmax in ONNX gives the mean of all values
if the numbers of the mask are finite, and NaN if they are infinite.
"""

from typing import Any

import torch
from torch import Tensor

ATEN = torch.ops.aten
ATTENTION = ATEN.scaled_dot_product_attention.default
MASK = 3  # the place of its mask among the arguments
EXPORTED_RANK = 4  # rank of q, k and v [batch, heads, tokens, width], the only form that torch.onnx supports


def zero_rows_without_keys(program: torch.export.ExportedProgram) -> None:
    """Rewrite the program in place so that attention returns 0 for each query without a key.

        attention(q, k, v, mask)      ==>      where(any(mask, -1), attention(q, k, v, finite(mask)), 0)

    The finite mask has the lowest number of its type where the mask is False or -inf, so no softmax is NaN. The
    attention remains a softmax between two products, which passes and engines recognize. If a mask is constant and
    leaves at least one key for each query, constant folding removes the selection. Attention without a mask is
    unchanged.
    """
    for graph_module in program.graph_module.modules():
        if isinstance(graph_module, torch.fx.GraphModule):
            for node in list(graph_module.graph.nodes):
                if node.target == ATTENTION and mask_of(node) is not None:
                    selected = _zero_rows_without_keys(graph_module.graph, node)
                    program.graph_signature.replace_all_uses(node.name, selected.name)


def mask_of(attention: torch.fx.Node) -> torch.fx.Node | None:
    """Return the mask of an attention node, or None."""
    mask = attention.kwargs.get("attn_mask", attention.args[MASK] if len(attention.args) > MASK else None)
    assert mask is None or isinstance(mask, torch.fx.Node)
    return mask


def _zero_rows_without_keys(graph: torch.fx.Graph, attention: torch.fx.Node) -> torch.fx.Node:
    mask = mask_of(attention)
    assert mask is not None
    own = attention.meta["val"]

    def add(target: Any, *args: Any, **options: Any) -> torch.fx.Node:
        node = graph.call_function(target, args, options)
        values, named = torch.fx.node.map_arg((args, options), lambda source: source.meta["val"])
        node.meta = {key: value for key, value in attention.meta.items() if key != "tensor_meta"}
        node.meta["val"] = target(*values, **named)
        return node

    def number(value: float) -> torch.fx.Node:
        with own.fake_mode:
            return add(ATEN.full.default, [], value, dtype=own.dtype, device=own.device)

    lowest, readers = torch.finfo(own.dtype).min, dict(attention.users)
    with graph.inserting_before(attention):
        zero = number(0.0)
        if mask.meta["val"].dtype == torch.bool:
            keeps, finite = mask, add(ATEN.where.self, mask, zero, number(lowest))
        else:
            keeps, finite = add(ATEN.gt.Scalar, mask, -torch.inf), add(ATEN.clamp_min.default, mask, lowest)
        # not the largest of `mask` itself: OpenVINO starts a maximum at the lowest number, which -inf is below
        counted = add(ATEN._to_copy.default, keeps, dtype=own.dtype)
        has_key = add(ATEN.gt.Scalar, add(ATEN.amax.default, counted, [-1], True), 0.0)
    attention.replace_input_with(mask, finite)
    with graph.inserting_after(attention):
        selected = add(ATEN.where.self, has_key, attention, zero)
    for reader in readers:
        reader.replace_input_with(attention, selected)
    return selected


def decompose_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Compute attention over tensors [..., N, C] by its formula. Returns NotImplemented for rank 4, so that the
    operation is kept.

    A mask must consist of numbers (`zero_rows_without_keys` converts it). A causal mask leaves each query at least its
    first key.
    """
    if q.dim() == EXPORTED_RANK:
        return NotImplemented
    if enable_gqa:
        k, v = (tensor.repeat_interleave(q.shape[-3] // tensor.shape[-3], -3) for tensor in (k, v))
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if is_causal:
        is_later = q.new_ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        mask = q.new_zeros(scores.shape[-2:]).masked_fill(is_later, torch.finfo(q.dtype).min)
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, dim=-1) @ v
