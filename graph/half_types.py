"""The 16-bit float types: float16, and bfloat16 with the range of float32 and 8 bits of precision.

Passes and targets take one of them as a numpy dtype. bfloat16 is the type of ml_dtypes, which onnx uses too.
"""

from typing import Any

import ml_dtypes
import numpy as np
from onnx import helper

FLOAT16 = np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = {half.name: half for half in (FLOAT16, BFLOAT16)}  # by their name in manifests


def onnx_type(dtype: np.dtype[Any]) -> int:
    """Return the ONNX number of a dtype."""
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def largest_number(dtype: np.dtype[Any]) -> float:
    """Return the largest finite number of a float type: 65504 in float16."""
    return float(_type_info(dtype).max)


def smallest_normal(dtype: np.dtype[Any]) -> float:
    """Return the smallest positive number of a float type with full precision."""
    return float(_type_info(dtype).smallest_normal)


def smallest_number(dtype: np.dtype[Any]) -> float:
    """Return the smallest positive (subnormal) number of a float type: 6e-8 in float16."""
    return float(_type_info(dtype).smallest_subnormal)


def _type_info(dtype: np.dtype[Any]) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
