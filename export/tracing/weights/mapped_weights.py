"""Weights of a torch module in a mapped file, released from memory as soon as their layer has run."""

import json
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from fewstep.graph.files import weights
from fewstep.graph.graph import Array

_ARRAYS: WeakValueDictionary[int, Array] = WeakValueDictionary()  # arrays by address; a tensor keeps its array alive


def map_floats(path: Path) -> dict[str, torch.Tensor]:
    """Map the large float32 tensors of a safetensors file, read-only and not yet read. Its header must have been
    checked."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entries: dict[str, Any] = json.loads(stream.read(length))
    file, tensors = weights.map_file(path), {}
    for name, entry in entries.items():
        start, end = (8 + length + offset for offset in entry.get("data_offsets", (0, 0)))
        if entry.get("dtype") != "F32" or end - start < weights.LARGE or start % 4:
            continue
        array = weights.view(file, start, np.dtype(np.float32), entry["shape"])
        with warnings.catch_warnings():  # torch warns about read-only arrays
            warnings.simplefilter("ignore")
            tensors[name] = torch.from_numpy(array)
        _ARRAYS[tensors[name].data_ptr()] = array
    return tensors


def find_mapped(array: Array) -> Array:
    """Return the array of `map_floats` that has the same memory, transposed if necessary, or else the array itself. (A
    view from torch does not show that its memory is mapped from a file.)"""
    own = _ARRAYS.get(array.__array_interface__["data"][0])
    forms = () if own is None else (own, own.T)
    return next((each for each in forms if weights.memory_key(each) == weights.memory_key(array)), array)


def release(tensor: torch.Tensor) -> None:
    """Release a tensor of `map_floats` from memory; it returns when it is read again. Other tensors stay."""
    if (array := _ARRAYS.get(tensor.data_ptr())) is not None:
        weights.release_array(array)


def release_after_use(module: torch.nn.Module) -> None:
    """Register hooks that release each layer's memory-mapped weights (see `map_floats`) from memory after the layer has
    run. Reading them again from the page cache takes a small part of a layer's time."""
    for layer in module.modules():
        arrays = [_ARRAYS.get(tensor.data_ptr()) for tensor in layer.parameters(recurse=False)]
        if own := [array for array in arrays if array is not None]:
            layer.register_forward_hook(partial(_release_arrays, own))


def _release_arrays(arrays: Sequence[Array], *_: Any) -> None:
    for array in arrays:
        weights.release_array(array)
