"""Export antialiased resizing between fixed sizes as two matrix products with torch's own weights. Every engine
computes these.

The weights of ONNX's Resize differ from torch's with align_corners, and with a scale factor whose product with the size
is not a whole number.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnxscript import ir
from onnxscript import opset20 as op
from onnxscript.function_libs.torch_lib.ops import nn

from fewstep.export.tracing.nearest import find_fixed_sizes

ATEN = torch.ops.aten


def resize_matrix(mode: Any, size: int, to: int, align_corners: bool, scale: float | None = None) -> Any:
    """Return the matrix [size, to], float32, by which a row of pixels is multiplied to resize it as torch does. `mode`
    is one of `ANTIALIASED`."""
    rows = torch.eye(size)[None, None]  # along the width: torch 2.13 resizes the height of an image of width 1 wrong
    return mode.default(rows, [size, to], align_corners, None, scale)[0, 0].numpy()


def _make_form(mode: Any, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with which torch.onnx writes a resizing operation as two matrix products. If a size is free,
    that function calls `otherwise`, torch.onnx's own."""

    def resize(
        x: Any,
        output_size: Any,
        align_corners: bool,
        scales_h: float | None = None,
        scales_w: float | None = None,
    ) -> Any:
        sizes, found = find_fixed_sizes(x, output_size, None)
        if not sizes:
            return otherwise(x, output_size, align_corners, scales_h, scales_w)
        swapped = [*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2]
        for size, to, scale in ((sizes[1], found[1], scales_w), (sizes[0], found[0], scales_h)):
            matrix = np.ascontiguousarray(resize_matrix(mode, size, to, align_corners, scale))
            value: Any = ir.tensor(matrix)
            weights: Any = op.Constant(value=value)
            x = op.Transpose(op.MatMul(x, op.CastLike(weights, x)), perm=swapped)
        return x

    return resize


ANTIALIASED: dict[Any, Callable[..., Any]] = {
    ATEN._upsample_bilinear2d_aa.default: _make_form(ATEN._upsample_bilinear2d_aa, nn.aten__upsample_bilinear2d_aa),
    ATEN._upsample_bicubic2d_aa.default: _make_form(ATEN._upsample_bicubic2d_aa, nn.aten__upsample_bicubic2d_aa),
}
