"""Decompositions of operations that torch.onnx cannot export, or exports with results that differ from torch's. They
are applied before torch.onnx writes the graph.

A decomposition returns NotImplemented to keep the operation.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from fewstep.export.error_text import MissingForm
from fewstep.export.tracing.attention import ATTENTION, EXPORTED_RANK, decompose_attention
from fewstep.export.tracing.circular_padding import CIRCULAR, PAD, is_circular, pad_circularly
from fewstep.export.tracing.complex_pairs import ON_PAIRS, has_complex_input
from fewstep.export.tracing.distances import DISTANCES
from fewstep.export.tracing.elementwise import ELEMENTWISE
from fewstep.export.tracing.float_division import FLOAT_DIVISION
from fewstep.export.tracing.order_statistics import ORDER_STATISTICS
from fewstep.export.tracing.refused_operations import REFUSED_OPERATIONS

WHERE = torch.ops.aten.where.self
INDEX = torch.ops.aten.index.Tensor


def _repeat_interleave(x: torch.Tensor, repeats: Any, dim: int | None = None, *, output_size: Any = None) -> Any:
    """Repeat each element a number of times that is a free size. onnxscript expands another axis for these."""
    if isinstance(repeats, int):
        return NotImplemented
    x, axis = (x.flatten(), 0) if dim is None else (x, dim % x.dim())
    shape = (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :])
    return x.unsqueeze(axis + 1).expand(shape).flatten(axis, axis + 1)


def _squeeze(x: torch.Tensor, dim: int) -> Any:
    """Return x unchanged if the axis is longer than 1, as torch does. ONNX refuses to squeeze such an axis."""
    return NotImplemented if x.shape[dim] == 1 else torch.ops.aten.alias.default(x)


def _squeeze_all(x: torch.Tensor) -> Any:
    """Return x without its axes of length 1. Free axes, such as the batch, are kept, as in torch; ONNX would remove a
    free axis whenever its length is 1."""
    if all(isinstance(size, int) for size in x.shape):
        return NotImplemented
    short = [axis for axis, size in enumerate(x.shape) if isinstance(size, int) and size == 1]
    return torch.ops.aten.squeeze.dims(x, short) if short else torch.ops.aten.alias.default(x)


def _pad(x: torch.Tensor, pad: Sequence[Any], mode: str = "constant", value: float | None = None) -> Any:
    """Pad circularly with operations that both ONNX Runtime and OpenVINO support."""
    return pad_circularly(x, pad) if mode == CIRCULAR else NotImplemented


def _where(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Any:
    """Return a where the condition is true, else b. ONNX Runtime has no Where of booleans."""
    if a.dtype == b.dtype == torch.bool:
        return (condition & a) | (~condition & b)
    return ON_PAIRS[WHERE](condition, a, b)


def _where_number(condition: torch.Tensor, a: Any, b: Any) -> Any:
    """Return `_where` for booleans, if one side or both are a single True or False."""
    if not all(
        operand.dtype == torch.bool if isinstance(operand, torch.Tensor) else isinstance(operand, bool)
        for operand in (a, b)
    ):
        return NotImplemented
    return _where(
        condition,
        *(operand if isinstance(operand, torch.Tensor) else torch.full_like(condition, operand) for operand in (a, b)),
    )


def _masked_fill(x: torch.Tensor, mask: torch.Tensor, value: Any) -> Any:
    """Fill a boolean tensor with a boolean value where the mask is true. Other types are left to torch
    (NotImplemented)."""
    if x.dtype != torch.bool:
        return NotImplemented
    return x | mask if value else x & ~mask


def _index(x: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> Any:
    """Select elements by int64 indices. ONNX's GatherND takes no int32."""
    if not _has_int32(indices):
        return ON_PAIRS[INDEX](x, indices)
    return INDEX(x, _as_int64(indices))


def _index_put(
    x: torch.Tensor, indices: Sequence[torch.Tensor | None], values: torch.Tensor, accumulate: bool = False
) -> Any:
    """Replace elements at int64 indices. ONNX's ScatterND takes no int32."""
    if not _has_int32(indices):
        return NotImplemented
    return torch.ops.aten.index_put.default(x, _as_int64(indices), values, accumulate)


def _index_add(x: torch.Tensor, dim: int, indices: torch.Tensor, source: torch.Tensor, *, alpha: Any = 1) -> Any:
    """Add elements at int64 indices, as `_index_put` replaces them."""
    if indices.dtype != torch.int32:
        return NotImplemented
    return torch.ops.aten.index_add.default(x, dim, indices.long(), source, alpha=alpha)


def _has_int32(indices: Sequence[torch.Tensor | None]) -> bool:
    return any(index is not None and index.dtype == torch.int32 for index in indices)


def _as_int64(indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    return [index.long() if index is not None and index.dtype == torch.int32 else index for index in indices]


DECOMPOSED: dict[Any, Callable[..., Any]] = {
    ATTENTION: decompose_attention,
    torch.ops.aten.repeat_interleave.self_int: _repeat_interleave,
    torch.ops.aten.squeeze.dim: _squeeze,
    torch.ops.aten.squeeze.default: _squeeze_all,
    **ON_PAIRS,
    **DISTANCES,
    **ELEMENTWISE,
    **FLOAT_DIVISION,
    **ORDER_STATISTICS,
    **REFUSED_OPERATIONS,
    INDEX: _index,
    torch.ops.aten.index_put.default: _index_put,
    torch.ops.aten.index_add.default: _index_add,
    PAD: _pad,
    torch.ops.aten.masked_fill.Scalar: _masked_fill,
    WHERE: _where,
    torch.ops.aten.where.Scalar: _where_number,
    torch.ops.aten.where.ScalarOther: _where_number,
    torch.ops.aten.where.ScalarSelf: _where_number,
}


def _out_of_place(operation: Any) -> Any:
    """Return aten.add.Tensor for aten.add_.Tensor, which becomes it before the decompositions are applied. Other
    operations are returned unchanged."""
    if not isinstance(operation, torch._ops.OpOverload) or not operation._schema.name.endswith("_"):
        return operation
    packet = getattr(torch.ops.aten, operation._schema.name.removeprefix("aten::").rstrip("_"), None)
    return getattr(packet, operation._overloadname, operation)


def is_decomposed(node: torch.fx.Node) -> bool:
    """Return True if the decomposition of a node's operation differs from the operation. Raises MissingForm, with the
    node, for an operation that cannot be exported."""
    if node.target == WHERE and node.meta["val"].dtype == torch.bool:
        return True
    indices: Any = node.args[1] if node.target == INDEX else ()
    if any(index is not None and index.meta["val"].dtype == torch.int32 for index in indices):
        return True
    if node.target in ON_PAIRS:
        return has_complex_input(node)  # a trial call outside of torch's tracing could fix the batch
    if node.target == PAD:  # for the same reason
        return is_circular(node)
    if node.target == ATTENTION:  # for the same reason
        return bool(node.meta["val"].dim() != EXPORTED_RANK)
    decomposition = DECOMPOSED.get(_out_of_place(node.target))
    if decomposition is None:
        return False
    args, named = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda node: node.meta["val"])
    modes = [value.fake_mode for value in tree_leaves((args, named)) if isinstance(value, FakeTensor)]
    with modes[0] if modes else nullcontext():  # tensors that the decomposition creates have free sizes too
        try:
            return decomposition(*args, **named) is not NotImplemented
        except MissingForm as missing:
            raise MissingForm(missing.detail, missing.fix, node) from None
