"""Weights in files: streamed there once, mapped from there, and referred to by every graph of a bundle that has them.

A mapped array is an ordinary read-only array whose memory is the file's. So weights of any size cost no memory until
they are read, and pages that were read can be dropped again by the system. Where such an array lies can be asked of the
array itself (`place_of`): passes hand arrays on without knowing, and whoever writes the graph refers to the file.
"""

import gc
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from fewstep.graph.graph import Array, Graph

LARGE = 4096  # bytes: smaller constants stay in the graph, where engines can fold them
PAGE = 4096  # bytes: large ones start on a page, so that an engine can map the file instead of copying it
COARSE = 2**20  # bytes: from here on they start where Windows, too, can map them
GRANULE = 2**16  # bytes: its unit of mapping
BLOCK = 2**24  # bytes that are copied at a time
COLLECTED = 2**24  # bytes of weights from where on what refers to them is searched for


@dataclass(frozen=True)
class FilePlace:
    """The place where the bytes of an array begin: a file, and an offset in it."""

    file: Path
    offset: int


def map_file(path: Path) -> Array:
    """The bytes of a file as a read-only array: uint8 [size]. It must not be empty."""
    return np.memmap(path, np.uint8, mode="r")


def view(file: Array, offset: int, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    """The array that begins at `offset` of a mapped file."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return np.asarray(file[offset : offset + size]).view(dtype).reshape(shape)


def place_of(array: Array) -> FilePlace | None:
    """The place of a mapped array; None where its memory is no file's, or it lies there in another order."""
    root = _root(array)
    if not isinstance(root, np.memmap) or root.filename is None or root.mode != "r" or not array.flags.c_contiguous:
        return None
    return FilePlace(Path(root.filename), _address(array) - _address(root) + root.offset)


def release(graph: Graph) -> None:
    """Take the mapped weights of a graph out of memory, where they came by being read; they return when read again."""
    for array in large_constants(graph).values():
        release_array(array)


def release_array(array: Array) -> None:
    """Let the memory of one array go, whole or transposed, and whatever else lies in its first and last page."""
    root = _root(array)
    if isinstance(root.base, mmap.mmap) and hasattr(root.base, "madvise"):  # not on Windows
        start = (_address(array) - _address(root)) // mmap.PAGESIZE * mmap.PAGESIZE
        root.base.madvise(mmap.MADV_DONTNEED, start, _address(array) - _address(root) + array.nbytes - start)


def large_constants(graph: Graph) -> dict[str, Array]:
    """The constants that may leave a graph's file, also in its loops."""
    graphs = graph.walk_graphs()
    return {name: array for each in graphs for name, array in each.constants.items() if array.nbytes >= LARGE}


def weight_bytes(graph: Graph) -> int:
    """Bytes of all constants, also in its loops."""
    return sum(array.nbytes for each in graph.walk_graphs() for array in each.constants.values())


def collect_garbage(graph: Graph) -> None:
    """Let go of what was used for a graph, such as torch's, whose graphs refer to themselves and to the weights. Of a
    small graph the search for it costs more than it wins."""
    if weight_bytes(graph) > COLLECTED:
        gc.collect()


def memory_key(array: Array) -> tuple[object, ...]:
    """A key that is equal for two arrays of the same memory, shape, type and strides."""
    return (_address(array), array.dtype, array.shape, array.strides)


def distinct_arrays(arrays: Iterable[Array]) -> list[Array]:
    """Each array once, however many names it has."""
    return list({memory_key(array): array for array in arrays}.values())


def file_bytes(arrays: Iterable[Array]) -> int:
    """The bytes that `write` would write."""
    end = 0
    for array in arrays:
        end = _align(end, array.nbytes) + array.nbytes
    return end


def write(stream: IO[bytes] | Any, arrays: Iterable[Array]) -> list[int]:
    """Write arrays one after the other, each on a boundary of pages; returns the offset of each. Mapped ones leave
    memory again."""
    offsets, end = [], 0
    for array in arrays:
        start = _align(end, array.nbytes)
        stream.write(b"\0" * (start - end))
        for block in _blocks(array):
            stream.write(block)
        release_array(array)
        offsets.append(start)
        end = start + array.nbytes
    return offsets


def map_constants(graph: Graph, files: Mapping[tuple[object, ...], Array]) -> Graph:
    """The graph with those constants mapped that `files` has, by `memory_key`. Small ones are copied where they are
    parts of something larger: the bias of one layer would hold the whole file of weights that it was loaded from."""

    def map_array(array: Array) -> Array:
        there = files.get(memory_key(array), array)
        return there.copy() if there.nbytes < LARGE and there.base is not None else there

    return replace(graph, constants={name: map_array(array) for name, array in graph.constants.items()})


def folder_finder(folder: Path) -> Callable[[Array], FilePlace | None]:
    """A function like `place_of` for files of one folder only."""
    home = folder.resolve()

    def find(array: Array) -> FilePlace | None:
        place = place_of(array)
        return place if place is not None and place.file.parent.resolve() == home else None

    return find


def _root(array: Array) -> Array:
    """The array that an array is a view of."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    return root


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _align(end: int, size: int) -> int:
    step = GRANULE if size >= COARSE else PAGE
    return end + -end % step


def _blocks(array: Array) -> Iterator[memoryview]:
    """The bytes of an array in order, as ONNX has them, little-endian; a transposed one is copied block by block."""
    if array.ndim == 0 or array.nbytes <= BLOCK or array.flags.c_contiguous:
        flat = np.ascontiguousarray(array).reshape(-1)
        step = max(1, BLOCK // array.itemsize)
        for start in range(0, flat.size, step):
            part = flat[start : start + step]
            yield (part.byteswap() if sys.byteorder == "big" else part).view(np.uint8).data
        return
    rows = max(1, len(array) * BLOCK // array.nbytes)
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        yield from _blocks(part if len(array) > 1 else part[0])
