"""Export complex tensors as pairs of real ones, for operations that torch.onnx can write for real tensors only.

torch.onnx keeps a complex tensor [...] as a real one [..., 2], so viewing one as the other costs nothing. Operations
that only move elements are therefore applied to the pairs, whose last axis stays in its place.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ATEN = torch.ops.aten


def _index(z: Tensor, indices: Sequence[Tensor | None]) -> Any:
    """Return z[indices]. The indices apply to the first axes."""
    return _to_complex(ATEN.index.Tensor(_to_pairs(z), indices))


def _index_select(z: Tensor, dim: int, index: Tensor) -> Any:
    return _to_complex(_to_pairs(z).index_select(dim % z.dim(), index))


def _split(z: Tensor, sizes: int | list[int], dim: int = 0) -> Any:
    return [_to_complex(part) for part in _to_pairs(z).split(sizes, dim % z.dim())]


def _where(condition: Tensor, z: Tensor, other: Tensor) -> Any:
    return _to_complex(torch.where(condition.unsqueeze(-1), _to_pairs(z), _to_pairs(other)))


def _to_pairs(z: Tensor) -> Tensor:
    """[...] -> [..., 2]"""
    return torch.view_as_real(z)


def _to_complex(pairs: Tensor) -> Tensor:
    """[..., 2] -> [...]"""
    return torch.view_as_complex(pairs.contiguous())


def _restrict_to_complex(decomposition: Callable[..., Any]) -> Callable[..., Any]:
    """Return the decomposition restricted to complex tensors; other arguments may be masks and indices. For real
    tensors the operation is kept."""

    def decompose(*args: Any, **named: Any) -> Any:
        tensors = [argument for argument in args if isinstance(argument, Tensor)]
        values = [tensor.is_complex() for tensor in tensors if tensor.is_complex() or tensor.is_floating_point()]
        return decomposition(*args, **named) if values and all(values) else NotImplemented

    return decompose


def has_complex_input(node: torch.fx.Node) -> bool:
    """Return True if an operation reads a complex tensor."""
    values = [each.meta.get("val") for each in node.all_input_nodes]
    return any(isinstance(value, Tensor) and value.is_complex() for value in values)


ON_PAIRS: dict[Any, Callable[..., Any]] = {
    operation: _restrict_to_complex(decomposition)
    for operation, decomposition in (
        (ATEN.alias.default, lambda z: _to_complex(_to_pairs(z))),
        (ATEN.index.Tensor, _index),
        (ATEN.select.int, lambda z, dim, index: _to_complex(_to_pairs(z).select(dim % z.dim(), index))),
        (ATEN.index_select.default, _index_select),
        (ATEN.unsqueeze.default, lambda z, dim: _to_complex(_to_pairs(z).unsqueeze(dim % (z.dim() + 1)))),
        (ATEN.split.Tensor, _split),
        (ATEN.split_with_sizes.default, _split),
        (ATEN.expand.default, lambda z, size, **_: _to_complex(_to_pairs(z).expand(*size, 2))),
        (ATEN.repeat.default, lambda z, repeats: _to_complex(_to_pairs(z).repeat(*repeats, 1))),
        (ATEN.where.self, _where),
    )
}
