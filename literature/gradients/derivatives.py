"""Backward passes of convolutions, with respect to their input only, and of pooling, written with operations that ONNX
has.

Torch already decomposes the backward passes of other operations.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions

ATEN = torch.ops.aten


def _convolution(
    slope: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, None, None]:
    """Return the derivative with respect to the input, and None for weight and bias. It is a transposed convolution if
    the operation is not transposed, and a convolution without transposition if it is.

    With a stride, the size of the output does not determine the size of the input. The difference is added as output
    padding.
    """
    if not mask[0]:
        return None, None, None
    rest = [0] * len(stride)
    if not transposed:
        reached = [
            (out - 1) * step - 2 * pad + spread * (width - 1) + 1
            for out, step, pad, spread, width in zip(
                slope.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
            )
        ]
        rest = [int(size - end) for size, end in zip(x.shape[2:], reached, strict=True)]
    return (
        ATEN.convolution.default(slope, weight, None, stride, padding, dilation, not transposed, rest, groups),
        None,
        None,
    )


def _max_pool(
    slope: Tensor,
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Send the derivative to the positions of the maxima."""
    zeros = torch.zeros_like(x).flatten(2)
    return zeros.scatter_add(2, indices.flatten(2), slope.flatten(2)).reshape(x.shape)


def _mean_pool(
    slope: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Any:
    """Return the derivative of average pooling with respect to its input: a transposed convolution of each channel with
    equal weights. NotImplemented for options that this does not cover."""
    if ceil_mode or divisor is not None or (any(padding) and not count_include_pad):
        return NotImplemented
    kernel, channels = list(kernel_size), x.shape[1]
    weight = slope.new_full((channels, 1, *kernel), 1 / math.prod(kernel))
    ones, steps = [1] * len(kernel), list(stride) or kernel
    return _convolution(slope, x, weight, None, steps, padding, ones, False, [0] * len(kernel), channels, [True])[0]


DERIVATIVES: dict[Any, Callable[..., Any]] = {
    form: way for form, way in core_aten_decompositions().items() if "backward" in str(form)
} | {
    ATEN.convolution_backward.default: _convolution,
    ATEN.avg_pool2d_backward.default: _mean_pool,
    ATEN.max_pool2d_with_indices_backward.default: _max_pool,
}
