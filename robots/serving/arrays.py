"""Arrays in the messages of clients: the type, the shape and the bytes of each are checked before it is made."""

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])")  # of booleans, integers and floats, as `numpy.dtype.str` is
MOST_AXES = 32
LONGEST_AXIS = 2**31 - 1
SHOWN = (str, bytes, int, float, bool, type(None))  # classes whose values are printed


def make_array(content: object, dtype: "np.dtype[Any]", shape: object, is_fortran: bool = False) -> NDArray[Any]:
    """Return the array [*shape] of some bytes, which it shares. Raises ValueError or TypeError if they do not describe
    one."""
    if not isinstance(content, bytes | bytearray):
        raise ValueError("an array has no bytes")
    if not isinstance(shape, list | tuple) or len(shape) > MOST_AXES:
        raise ValueError(f"an array has no shape of at most {MOST_AXES} axes")
    if not all(type(size) is int and 0 <= size <= LONGEST_AXIS for size in shape):
        raise ValueError(f"an array has the shape ({', '.join(map(describe_value, shape))})")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"an array of the shape {tuple(shape)} and the type {dtype} has {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")


def read_dtype(text: object) -> "np.dtype[Any]":
    """Return the type of numbers that a text such as <f4 names. Raises ValueError for any other."""
    if not isinstance(text, str) or not TYPE.fullmatch(text):
        raise ValueError(f"an array has the type {describe_value(text)}")
    return np.dtype(text)


def describe_value(value: object) -> str:
    """Return a short text of a client's value: a number, the beginning of a text, or the class of anything else. Lists
    are not printed: if each holds the next one twice, the text of 30 lists has 2^30 elements."""
    if not isinstance(value, SHOWN):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and value.bit_length() > 64:
        return "an integer of more than 64 bits"
    return repr(value[:40] if isinstance(value, str | bytes) else value)
