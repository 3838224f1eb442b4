"""Keep constants as torch computes them when torch.onnx writes them, and while onnxscript's optimizer folds and removes
them.

torch.onnx writes a number among float64 tensors as float32, whose pi is off by 9e-8, and its linspace and arange differ
from torch's in the last bit. The optimizer's patterns accept 0 within 1e-8 and 1 within 1e-5, so x / (norm(x) + 1e-8)
would lose what protects it from 0 / 0. It folds constants with numpy, whose float32 exp differs from torch's in the
last bit. The cosine of a time of 10000 multiplied by such a frequency differs by 1e-4.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from onnxscript import COMPLEX64, COMPLEX128, DOUBLE, FLOAT, ir
from onnxscript import opset20 as op
from onnxscript.function_libs.torch_lib.ops.core import aten_arange_start_step, aten_linspace, aten_scalar_tensor

FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "Cos": torch.cos,
    "Exp": torch.exp,
    "Log": torch.log,
    "Pow": torch.pow,
    "Sin": torch.sin,
}


@contextmanager
def match_exact_constants() -> Iterator[None]:
    """Match the constants 0 and 1 of patterns exactly inside the block. Other constants, such as the root of 2 in a
    GELU, keep their tolerance.

    The matcher is private to onnxscript. If a release lacks it, nothing is changed.
    """
    try:
        from onnxscript.rewriter._matcher import SimplePatternMatcher
        from onnxscript.rewriter._pattern_ir import Constant
    except ImportError:
        yield
        return
    matcher: Any = SimplePatternMatcher
    match = getattr(matcher, "_match_constant", None)
    if match is None:
        yield
        return

    def match_exactly(self: Any, pattern: Any, value: Any) -> bool:
        is_neutral = not isinstance(pattern.value, list) and pattern.value in (0, 1)
        return bool(match(self, Constant(pattern.value, 0.0, 0.0) if is_neutral else pattern, value))

    with patch.object(matcher, "_match_constant", match_exactly):
        yield


@contextmanager
def fold_as_torch() -> Iterator[None]:
    """Compute functions of float32 constants with torch inside the block."""
    from onnx.reference.ops import op_cos, op_exp, op_log, op_pow, op_sin

    owners = {"Cos": op_cos.Cos, "Exp": op_exp.Exp, "Log": op_log.Log, "Pow": op_pow.Pow, "Sin": op_sin.Sin}
    with ExitStack() as stack:
        for name, owner in owners.items():
            stack.enter_context(patch.object(owner, "_run", _run_with(FUNCTIONS[name], owner._run)))
        yield


def _run_with(function: Callable[..., torch.Tensor], original: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, *values: NDArray[Any], **attributes: Any) -> Any:
        if any(np.asarray(value).dtype != np.float32 for value in values):
            return original(self, *values, **attributes)
        return (function(*(torch.from_numpy(np.array(value)) for value in values)).numpy(),)

    return run


def _write_number(number: Any, dtype: int = FLOAT.dtype, **layout: Any) -> Any:
    """Write a number as a constant of its own type. A number that another node computes is cast, and a complex one is a
    pair."""
    if not isinstance(number, int | float) or dtype in (-1, COMPLEX64.dtype, COMPLEX128.dtype):
        return aten_scalar_tensor(number, dtype)
    value: Any = ir.tensor(number, ir.DataType(dtype))
    return op.Constant(value=value)


def _write_linspace(start: Any, end: Any, steps: Any, dtype: int = FLOAT.dtype, **layout: Any) -> Any:
    """Write evenly spaced numbers as torch computes them, if they are known."""
    return _write_range(torch.linspace, (start, end, steps), dtype) or aten_linspace(start, end, steps, dtype)


def _write_arange(start: Any, end: Any, step: Any = 1, dtype: int = -1, **layout: Any) -> Any:
    """Write a range with a fraction as torch computes it, if it is known: ONNX's may have one element more."""
    has_fraction = any(isinstance(number, float) for number in (start, end, step))
    made = _write_range(torch.arange, (start, end, step), dtype) if has_fraction else None
    return made or aten_arange_start_step(start, end, step, dtype)


def _write_range(function: Callable[..., torch.Tensor], numbers: tuple[Any, ...], dtype: int | None) -> Any:
    """Write what a function of torch returns; None if a number is unknown, or the type has no fractions."""
    kind = FLOATS.get(FLOAT.dtype if dtype in (-1, None) else dtype)
    if kind is None or not all(isinstance(number, int | float) for number in numbers):
        return None
    value: Any = ir.tensor(function(*numbers, dtype=kind).numpy())
    return op.Constant(value=value)


FLOATS = {int(FLOAT.dtype): torch.float32, int(DOUBLE.dtype): torch.float64}
NUMBERS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.scalar_tensor.default: _write_number,
    torch.ops.aten.linspace.default: _write_linspace,
    torch.ops.aten.arange.start_step: _write_arange,
}
"""What torch.onnx writes for numbers that stand among tensors."""
