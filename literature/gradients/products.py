"""Matrix products, attention and upsampling that remain single operations in a traced backward pass.

With autograd, torch decomposes `linear` and `matmul` before they can be recorded, repeats weights for the whole batch,
and writes upsampling as indexing. Inside `keep_products_whole` they are single operations with a derivative.
`restore_torch_names` then gives them torch's names again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

ATEN = torch.ops.aten


@torch.library.custom_op("fewstep::linear", mutates_args=())
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


@torch.library.custom_op("fewstep::matmul", mutates_args=())
def _matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@torch.library.custom_op("fewstep::enlarge", mutates_args=())
def _enlarge(x: Tensor, factors: list[int]) -> Tensor:
    return F.interpolate(x, scale_factor=tuple(map(float, factors)), mode="nearest")


@_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@_matmul.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[-1])


@_enlarge.register_fake
def _(x: Tensor, factors: list[int]) -> Tensor:
    return x.new_empty(*x.shape[:2], *(size * factor for size, factor in zip(x.shape[2:], factors, strict=True)))


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _linear_backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
    """Return the derivative of a linear layer with respect to x, and None for weight and bias, which have no gradient
    here."""
    _, weight = ctx.saved_tensors
    return _linear(slope, weight.t(), None), None, None


def _matmul_backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None]:
    a, b = ctx.saved_tensors
    of_a, of_b = ctx.needs_input_grad
    return (
        _matmul(slope, b.transpose(-1, -2)) if of_a else None,
        _matmul(a.transpose(-1, -2), slope) if of_b else None,
    )


def _keep_factors(ctx: Any, inputs: tuple[Tensor, list[int]], output: Tensor) -> None:
    ctx.sizes, ctx.factors = inputs[0].shape[2:], inputs[1]


def _enlarge_backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
    """Return the derivative of nearest-neighbor upsampling with respect to its input: the sum over each block in which
    a value was repeated."""
    parts = [number for pair in zip(ctx.sizes, ctx.factors, strict=True) for number in pair]
    return slope.reshape(*slope.shape[:2], *parts).sum(dim=list(range(3, 3 + len(parts), 2))), None


_linear.register_autograd(_linear_backward, setup_context=_keep)
_matmul.register_autograd(_matmul_backward, setup_context=_keep)
_enlarge.register_autograd(_enlarge_backward, setup_context=_keep_factors)


class _Whole(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        form = FORMS.get(function)
        result = NotImplemented if form is None else form(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {})) if result is NotImplemented else result


# The functions have torch's argument names, since callers may pass arguments by name.
def _whole_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    return NotImplemented if weight.requires_grad else _linear(input, weight, bias)


def _whole_matmul(input: Tensor, other: Tensor) -> Any:
    """Multiply batches of matrices whose batch axes are equal. Without broadcasting, the derivative needs no sum."""
    alike = isinstance(other, Tensor) and input.dim() == other.dim() > 2 and input.shape[:-2] == other.shape[:-2]
    return _matmul(input, other) if alike else NotImplemented


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if is_causal or enable_gqa or (attn_mask is not None and attn_mask.dtype == torch.bool):
        return NotImplemented
    scores = _matmul(query * (query.shape[-1] ** -0.5 if scale is None else scale), key.transpose(-1, -2))
    if attn_mask is None:
        return _matmul(torch.softmax(scores, dim=-1), value)
    finite = attn_mask.clamp_min(torch.finfo(scores.dtype).min)  # avoids NaN in the softmax and in its derivative
    read = _matmul(torch.softmax(scores + finite, dim=-1), value)
    has_key = (attn_mask > -torch.inf).to(scores.dtype).amax(-1, keepdim=True) > 0
    return torch.where(has_key, read, 0.0)  # torch's result for a query without a key


def _interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *_: Any, **__: Any
) -> Any:
    """Upsample by integer factors to the nearest value."""
    if mode != "nearest":
        return NotImplemented
    axes = input.dim() - 2
    asked = scale_factor if size is None else size
    numbers = list(asked) if isinstance(asked, tuple | list) else [asked] * axes
    factors = numbers if size is None else [n / size for n, size in zip(numbers, input.shape[2:], strict=True)]
    return (
        _enlarge(input, [int(f) for f in factors])
        if all(float(f).is_integer() and f >= 1 for f in factors)
        else NotImplemented
    )


FORMS: dict[Any, Callable[..., Any]] = {
    F.linear: _whole_linear,
    torch.matmul: _whole_matmul,
    Tensor.matmul: _whole_matmul,
    Tensor.__matmul__: _whole_matmul,
    F.scaled_dot_product_attention: _attention,
    F.interpolate: _interpolate,
}
ENLARGEMENTS = {
    1: ATEN.upsample_nearest1d.vec,
    2: ATEN.upsample_nearest2d.vec,
    3: ATEN.upsample_nearest3d.vec,
}


@contextmanager
def keep_products_whole() -> Iterator[None]:
    """While active, matrix products are traced as single operations, and attention as matrix products. Causal
    attention, grouped queries and boolean masks use torch's own formula instead of a fused kernel, whose derivative
    cannot be written out."""
    with sdpa_kernel(SDPBackend.MATH), _Whole():
        yield


def restore_torch_names(graph: torch.fx.Graph) -> None:
    """Replace fewstep's custom operations in a traced graph by the torch operations that they stand for, in place."""
    own = torch.ops.fewstep
    for node in graph.nodes:
        if node.target is own.linear.default:
            node.target = ATEN.linear.default
        elif node.target is own.matmul.default:
            node.target = ATEN.matmul.default
        elif node.target is own.enlarge.default:
            x, factors = node.args
            node.target = ENLARGEMENTS[len(factors)]
            node.args = (x, None, [float(factor) for factor in factors])
