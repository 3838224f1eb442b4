"""Weights of a torch module in a mapped file, released from memory as soon as their layer has run."""

import json
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import ml_dtypes
import numpy as np
import torch

from fewstep.graph.files import weights
from fewstep.graph.graph import Array

TYPES = {
    "F32": (np.dtype(np.float32), torch.float32),
    "F16": (np.dtype(np.float16), torch.float16),
    "BF16": (np.dtype(ml_dtypes.bfloat16), torch.bfloat16),
}  # by safetensors' names: numpy's type and torch's
_ARRAYS: WeakValueDictionary[int, Array] = WeakValueDictionary()  # arrays by address; a tensor keeps its array alive


def map_tensors(path: Path, types: Sequence[str] = ("F32",)) -> dict[str, torch.Tensor]:
    """Map the large tensors of some float types of a safetensors file, by its names for the types, read-only and not
    yet read. Its header must have been checked."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entries: dict[str, Any] = json.loads(stream.read(length))
    file, tensors = weights.map_file(path), {}
    for name, entry in entries.items():
        start, end = (8 + length + offset for offset in entry.get("data_offsets", (0, 0)))
        if entry.get("dtype") not in types or end - start < weights.LARGE:
            continue
        dtype, torch_type = TYPES[entry["dtype"]]
        if start % dtype.itemsize:
            continue
        array = weights.view(file, start, dtype, entry["shape"])
        with warnings.catch_warnings():  # torch warns about read-only arrays
            warnings.simplefilter("ignore")
            if torch_type == torch.bfloat16:  # which torch does not take from numpy
                array = array.view(np.int16)
            tensors[name] = torch.from_numpy(array).view(torch_type)
        _ARRAYS[tensors[name].data_ptr()] = array
    return tensors


def find_mapped(array: Array) -> Array:
    """Return the array of `map_tensors` that has the same memory, transposed if necessary, or else the array itself. (A
    view from torch does not show that its memory is mapped from a file.)"""
    own = _ARRAYS.get(array.__array_interface__["data"][0])
    if own is not None and own.itemsize == array.itemsize:
        own = own.view(array.dtype)
    forms = () if own is None else (own, own.T)
    return next((form for form in forms if weights.memory_key(form) == weights.memory_key(array)), array)


def release(tensor: torch.Tensor) -> None:
    """Release a tensor of `map_tensors` from memory; it returns when it is read again. Other tensors stay."""
    if (array := _ARRAYS.get(tensor.data_ptr())) is not None:
        weights.release_array(array)


def release_after_use(module: torch.nn.Module) -> None:
    """Register hooks that release each layer's mapped weights (see `map_tensors`) from memory after the layer has run.
    Reading them again from the page cache takes a small part of a layer's time."""
    for layer in module.modules():
        tensors = (*layer.parameters(recurse=False), *layer.buffers(recurse=False))
        arrays = [_ARRAYS.get(tensor.data_ptr()) for tensor in tensors]
        if own := [array for array in arrays if array is not None]:
            layer.register_forward_hook(partial(_release_arrays, own))


def _release_arrays(arrays: Sequence[Array], *_: Any) -> None:
    for array in arrays:
        weights.release_array(array)
