"""Replacements for functions of torch that cannot be exported as they are for any batch size.

take_along_dim and gradient compute with the sizes of their arguments as plain integers, which would fix the batch size.
Reading `tensor.data` returns a tensor that is not traced, so that results computed from it would be lost. torch.onnx
writes `x.copy_(source)` with the shape of the source, even if the source is broadcast. `torch.tensor([0] * x.shape[0])`
reads a list, whose length is a plain integer. `torch.split` returns a list, whose length follows the batch. torch.onnx
writes embedding_bag as a loop over the bags, and cannot write the gradients of torch.autograd.
"""

import keyword
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.overrides import TorchFunctionMode

from fewstep.export.tracing.size_arithmetic import RepeatedEntry
from fewstep.plans.errors import UserError


class TraceableFunctions(TorchFunctionMode):
    """While active, replaces calls of take_along_dim, gradient, copy_, tensor, split, chunk and embedding_bag, and
    reads of `tensor.data`, by operations that can be exported with free sizes, and refuses those of torch.autograd."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = {name: _expand(value) for name, value in (kwargs or {}).items()}
        if func is not torch.tensor:
            args = tuple(map(_expand, args))
        form = FORMS.get(func) if named.get("out") is None else None
        return (form or func)(*args, **named)


def _expand(value: Any) -> Any:
    """Return a list for a RepeatedEntry."""
    return value.expand() if isinstance(value, RepeatedEntry) else value


def _tensor(data: Any, **options: Any) -> Tensor:
    """Return a tensor of these values. If they are a list of one number, repeated by a symbolic size, the size stays
    free."""
    if not isinstance(data, RepeatedEntry) or isinstance(data.entry, tuple):
        return torch.tensor(_expand(data), **options)
    return torch.full((data.size,), data.entry, **options)  # memory for each element, so that code may write to it


def _einsum(equation: str, *operands: Any) -> Tensor:
    """Return the sum of products of tensors in their common type."""
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    common = reduce(torch.promote_types, (each.dtype for each in tensors))
    return torch.einsum(equation, *(each.to(common) for each in tensors))


def _take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None, out: None = None) -> Tensor:
    """Return the elements of `input` at `indices` along the axis `dim`; the other axes are broadcast. Without `dim`,
    both tensors are flattened."""
    if dim is None:
        return input.flatten().gather(0, indices.flatten())
    dim %= input.dim()
    shape = [mine if theirs == 1 else theirs for mine, theirs in zip(input.shape, indices.shape, strict=True)]
    values = input.expand([-1 if axis == dim else size for axis, size in enumerate(shape)])
    return values.gather(dim, indices.expand([-1 if axis == dim else size for axis, size in enumerate(shape)]))


def _gradient(
    input: Tensor, *, spacing: Any = None, dim: int | Sequence[int] | None = None, edge_order: int = 1
) -> tuple[Tensor, ...]:
    """Return the derivative along each axis of `dim`.

    spacing: a step for all axes, or a list with a step or the coordinates [size] for each axis. edge_order: the order
    of accuracy, 1 or 2, of the one-sided differences at both ends.
    """
    axes = range(input.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    given = spacing if isinstance(spacing, list | tuple) else [1.0 if spacing is None else spacing] * len(axes)
    return tuple(_derivative(input, axis, step, edge_order) for axis, step in zip(axes, given, strict=True))


def _derivative(x: Tensor, axis: int, spacing: Any, edge_order: int) -> Tensor:
    """Return central differences of x along an axis, and one-sided differences of `edge_order` at its two ends."""
    size = x.shape[axis]
    if axis % x.dim() == 0 and not isinstance(size, int):
        raise UserError("torch.gradient along the batch mixes samples", "give it another dim")
    before, here, after = (x.narrow(axis, first, size - 2) for first in range(3))
    if isinstance(spacing, Tensor) and spacing.dim():
        steps = spacing.diff().reshape([-1] + [1] * (x.dim() - 1 - axis % x.dim()))
        left, right = steps[:-1], steps[1:]
        inner = (left / right * (after - here) + right / left * (here - before)) / (left + right)
        first, last = (steps[:1], steps[1:2]), (-steps[-1:], -steps[-2:-1])
    else:
        inner, first, last = (after - before) / (2 * spacing), (spacing, spacing), (-spacing, -spacing)
    places = (0, 1, 2), (size - 1, size - 2, size - 3)
    ends = (
        _end([x.narrow(axis, place, 1) for place in each[: edge_order + 1]], *steps)
        for each, steps in zip(places, (first, last), strict=True)
    )
    return torch.cat([next(ends), inner, next(ends)], axis)


def _end(x: Sequence[Tensor], h: Any, k: Any) -> Tensor:
    """Return the derivative at the first of two or three points by finite differences. h and k are the distances
    between neighbors."""
    slope = (x[1] - x[0]) / h
    return slope if len(x) == 2 else slope + h / (h + k) * (slope - (x[2] - x[1]) / k)


def _copy(x: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy `src` into x with broadcasting, and return x. Comparing sizes does not specialize symbolic ones."""
    pairs = zip(src.shape, x.shape, strict=False)
    is_same = src.dim() == x.dim() and all(statically_known_true(mine == theirs) for mine, theirs in pairs)
    return x.copy_(src if is_same else src.expand_as(x))


def _split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> Sequence[Tensor]:
    """Return the parts of a tensor; the whole tensor if it has a free number of rows, and each part several of them.

    Code that computes each part alone gives the same rows from the whole. Export verifies that with several batches.
    """
    size = split_size_or_sections
    is_free = dim % tensor.dim() == 0 and not isinstance(tensor.shape[0], int)
    if is_free and isinstance(size, int) and size > 1:
        return (tensor,)
    return tensor.split(size, dim)


def _split_tensor(tensor: Tensor, split_size: Any, dim: int = 0) -> Sequence[Tensor]:
    """As _split, with the argument's name in a tensor's method."""
    return _split(tensor, split_size, dim)


def _chunk(input: Tensor, chunks: int, dim: int = 0) -> Sequence[Tensor]:
    """Return the parts of a tensor along an axis. Along a free axis other than the batch there are as many as `chunks`,
    as for every size of at least the square of it."""
    size: Any = input.shape[dim]
    if isinstance(size, int) or dim % input.dim() == 0:
        return input.chunk(chunks, dim)
    length = (size + chunks - 1) // chunks
    starts = [number * length for number in range(chunks)]
    return tuple(
        input.narrow(dim, start, length if number < chunks - 1 else size - start) for number, start in enumerate(starts)
    )


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Return the sum, mean or maximum of the rows of `weight` [entries, width] in each bag of `input` [B, length], as
    [B, width]. A bag whose entries are all `padding_idx` gives zeros."""
    if input.dim() != 2 or max_norm is not None:
        what = "embedding_bag with max_norm" if input.dim() == 2 else "embedding_bag of a list of indices with offsets"
        raise UserError(f"{what} has no ONNX equivalent", "give it indices [B, length], and no max_norm")
    rows = torch.nn.functional.embedding(input, weight)
    rows = rows if per_sample_weights is None else rows * per_sample_weights[..., None]
    is_kept = torch.ones_like(input, dtype=torch.bool)
    if padding_idx is not None:
        is_kept = input != padding_idx % weight.shape[0]
    if mode == "max":
        largest = rows.masked_fill(~is_kept[..., None], -torch.inf).amax(1)
        return torch.where(is_kept.any(1, keepdim=True), largest, torch.zeros_like(largest))
    total = (rows * is_kept[..., None]).sum(1)
    return total if mode == "sum" else total / is_kept.sum(1, keepdim=True).clamp_min(1)


def _refuse_gradient(*args: Any, **named: Any) -> NoReturn:
    raise UserError("it computes a gradient with torch.autograd, which ONNX does not have", NO_AUTOGRAD)


@contextmanager
def take_masks_as_given() -> Iterator[None]:
    """Inside the block, a Transformer does not compare the values of a mask with those of a causal one. It does so for
    faster operations with the same result. The function is private to torch; a release without it is not changed."""
    from torch.nn.modules import transformer

    name = "_detect_is_causal_mask"

    def detect(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
        return is_causal is True

    with patch.object(transformer, name, detect, create=not hasattr(transformer, name)):
        yield


@contextmanager
def quote_keywords() -> Iterator[None]:
    """Inside the block, torch writes code for modules whose names are Python keywords, such as a ModuleDict with the
    key "class", with getattr. The function is private to torch; a release without it is not changed."""
    from torch.fx import graph

    plain: Any = getattr(graph, "_format_target", None)

    def quote(base: str, target: str) -> str:
        for name in target.split("."):
            base = f'getattr({base}, "{name}")' if keyword.iskeyword(name) else plain(base, name)
        return base

    with patch.object(graph, "_format_target", quote, create=plain is None):
        yield


NO_AUTOGRAD = (
    "write the derivative with operations of torch; an energy that steers the samples is given to with_gradient "
    "(docs/export/changes.md)"
)
DATA: Any = Tensor.data  # a descriptor, which torch declares as the tensor that it returns
FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    DATA.__get__: Tensor.detach,  # shares its memory too: what is written to it is written to the tensor
    Tensor.copy_: _copy,
    torch.take_along_dim: _take_along_dim,
    Tensor.take_along_dim: _take_along_dim,
    torch.gradient: _gradient,
    torch.tensor: _tensor,
    torch.einsum: _einsum,
    torch.split: _split,
    Tensor.split: _split_tensor,
    torch.nn.functional.embedding_bag: _embedding_bag,
    torch.autograd.grad: _refuse_gradient,
    Tensor.backward: _refuse_gradient,
    torch.chunk: _chunk,
    Tensor.chunk: _chunk,
}
