"""Replacements for functions of torch that cannot be exported as they are for any batch size.

Reading `tensor.data` returns a tensor that is not traced, so that results computed from it would be lost. torch.onnx
writes `x.copy_(source)` with the shape of the source, even if the source is broadcast. `torch.tensor([0] * x.shape[0])`
reads a list, whose length is a plain integer. `torch.split` returns a list, whose length follows the batch. torch.onnx
cannot write the gradients of torch.autograd.
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

from fewstep.export.tracing.linspace import linspace
from fewstep.export.tracing.refused_operations import REFUSED_FUNCTIONS
from fewstep.export.tracing.size_arithmetic import RepeatedEntry
from fewstep.plans.errors import UserError


class TraceableFunctions(TorchFunctionMode):
    """While active, replaces calls of copy_, tensor, linspace, einsum, split and chunk, and reads of `tensor.data`, by
    operations that can be exported with free sizes, and refuses those of torch.autograd and of REFUSED_FUNCTIONS."""

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


def _pad_sequence(sequences: Sequence[Tensor], batch_first: bool = False, *padding: Any, **options: Any) -> Tensor:
    """Return a single sequence unchanged with an axis for the batch, whose length stays free."""
    if len(sequences) == 1:
        return sequences[0].unsqueeze(0 if batch_first else 1)
    return PAD_SEQUENCE(sequences, batch_first, *padding, **options)


def _einsum(equation: str, *operands: Any) -> Tensor:
    """Return the sum of products of tensors in their common type."""
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    common = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return torch.einsum(equation, *(tensor.to(common) for tensor in tensors))


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
PAD_SEQUENCE: Any = torch._C._nn.pad_sequence  # which torch.nn.utils.rnn calls
DATA: Any = Tensor.data  # a descriptor, which torch declares as the tensor that it returns
FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    DATA.__get__: Tensor.detach,  # shares its memory too: what is written to it is written to the tensor
    Tensor.copy_: _copy,
    torch.tensor: _tensor,
    torch.einsum: _einsum,
    torch.linspace: linspace,
    PAD_SEQUENCE: _pad_sequence,
    torch.split: _split,
    Tensor.split: _split_tensor,
    torch.autograd.grad: _refuse_gradient,
    Tensor.backward: _refuse_gradient,
    torch.chunk: _chunk,
    Tensor.chunk: _chunk,
    **REFUSED_FUNCTIONS,
}
