"""Export stacks of tensors as Concat. torch.onnx writes some of them as a loop over a list, which no engine
supports."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ATEN = torch.ops.aten


def _hstack(tensors: Sequence[Tensor]) -> Tensor:
    rows = [_to_rank(tensor, 1) for tensor in tensors]
    return torch.cat(rows, 0 if rows[0].dim() == 1 else 1)


def _vstack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([_to_rank(tensor, 2) for tensor in tensors], 0)


def _dstack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([_to_rank(tensor, 3) for tensor in tensors], 2)


def _column_stack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1, 1) if tensor.dim() < 2 else tensor for tensor in tensors], 1)


def _to_rank(x: Tensor, rank: int) -> Tensor:
    """Add axes of length 1, as torch.atleast_1d, atleast_2d and atleast_3d do."""
    if x.dim() >= rank:
        return x
    if x.dim() == 0:
        return x.reshape([1] * rank)
    if rank == 1:
        return x
    x = x.unsqueeze(0) if x.dim() == 1 else x
    return x if rank == 2 else x.unsqueeze(-1)


STACKS: dict[Any, Callable[..., Any]] = {
    ATEN.hstack.default: _hstack,
    ATEN.vstack.default: _vstack,
    ATEN.dstack.default: _dstack,
    ATEN.column_stack.default: _column_stack,
    ATEN.atleast_1d.Sequence: lambda tensors: [_to_rank(tensor, 1) for tensor in tensors],
    ATEN.atleast_2d.Sequence: lambda tensors: [_to_rank(tensor, 2) for tensor in tensors],
    ATEN.atleast_3d.Sequence: lambda tensors: [_to_rank(tensor, 3) for tensor in tensors],
}
