"""The float types of 16 bits: float16, and bfloat16 with the range of float32 and 8 bits of precision.

Passes and targets take one of them as a value, a numpy dtype. ml_dtypes has bfloat16, as onnx has it.
"""

from typing import Any

import ml_dtypes
import numpy as np
from onnx import helper

FLOAT16 = np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = {half.name: half for half in (FLOAT16, BFLOAT16)}  # by precision, as manifests name it


def onnx_type(dtype: np.dtype[Any]) -> int:
    """The number of a dtype in ONNX."""
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def largest_number(dtype: np.dtype[Any]) -> float:
    """The greatest finite number of a float type: 65504 in float16."""
    return float(_type_info(dtype).max)


def smallest_normal(dtype: np.dtype[Any]) -> float:
    """The least positive number of a float type with all its digits."""
    return float(_type_info(dtype).smallest_normal)


def smallest_number(dtype: np.dtype[Any]) -> float:
    """The least positive number of a float type, of few digits: 6e-8 in float16."""
    return float(_type_info(dtype).smallest_subnormal)


def _type_info(dtype: np.dtype[Any]) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
