"""Weights in files: written once, mapped from there, and shared by every graph of a bundle that uses them.

A mapped array is an ordinary read-only array whose memory is that of a file. Weights of any size therefore take no
memory until they are read, and the system can drop pages that were read. Since file and offset can be found from the
array (`place_of`), passes need not know about files, and the code that writes a graph refers to the existing file.
"""

import gc
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from fewstep.graph.graph import Array, Graph
from fewstep.graph.widened import stored_array

LARGE = 4096  # bytes; smaller constants stay in the graph, where engines can fold them
PAGE = 4096  # bytes of a page, on which large constants start, so that an engine can map them instead of copying
COARSE = 2**20  # bytes; constants of at least this size start on a GRANULE
GRANULE = 2**16  # bytes: the unit in which Windows maps files
BLOCK = 2**24  # bytes per copy
LEAST_SHARE = 0.5  # least share of another graph's weight file that a graph reads from there; less is copied
COLLECTED = 2**24  # bytes of weights above which garbage collection is worth its time


@dataclass(frozen=True)
class FilePlace:
    """Where the bytes of an array begin: a file and an offset in it."""

    file: Path
    offset: int


def map_file(file: Path | BinaryIO) -> Array:
    """Map a file, or a file that is open, as a read-only array, uint8 [size]. It must not be empty."""
    return np.memmap(file, np.uint8, mode="r")


def view(file: Array, offset: int, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    """Return the array that begins at `offset` of a mapped file."""
    size = prod(shape) * dtype.itemsize
    return np.asarray(file)[offset : offset + size].view(dtype).reshape(shape)


def place_of(array: Array) -> FilePlace | None:
    """Return the file and the offset from which an array is mapped; None if its memory is not that of a file, or is not
    contiguous."""
    if stored_array(array) is not None:  # the file has its numbers in another type
        return None
    root = _root(array)
    if not isinstance(root, np.memmap) or root.filename is None or root.mode != "r" or not array.flags.c_contiguous:
        return None
    return FilePlace(Path(root.filename), _address(array) - _address(root) + root.offset)


def release(graph: Graph) -> None:
    """Drop a graph's mapped weights from memory. They return when they are read again."""
    for array in large_constants(graph).values():
        release_array(array)


def release_array(array: Array) -> None:
    """Drop one array, contiguous or transposed, from memory, including the rest of its first and last page."""
    array = array if (stored := stored_array(array)) is None else stored
    root = _root(array)
    if isinstance(root.base, mmap.mmap) and hasattr(root.base, "madvise"):  # not on Windows
        start = (_address(array) - _address(root)) // mmap.PAGESIZE * mmap.PAGESIZE
        root.base.madvise(mmap.MADV_DONTNEED, start, _address(array) - _address(root) + array.nbytes - start)


def large_constants(graph: Graph) -> dict[str, Array]:
    """Return the constants that may be stored outside a graph's file, including those of its loops."""
    graphs = graph.walk_graphs()
    return {name: array for graph in graphs for name, array in graph.constants.items() if array.nbytes >= LARGE}


def weight_bytes(graph: Graph) -> int:
    """Return the bytes of all constants, including those of loops."""
    return sum(array.nbytes for subgraph in graph.walk_graphs() for array in subgraph.constants.values())


def collect_garbage(graph: Graph) -> None:
    """Run Python's garbage collection after work on a large graph. It frees, for example, torch graphs, which refer to
    themselves and to the weights. For a small graph nothing is done, since a collection would take more time than the
    memory is worth."""
    if weight_bytes(graph) > COLLECTED:
        gc.collect()


def memory_key(array: Array) -> tuple[object, ...]:
    """Return a key that is equal for two arrays of the same memory, shape, type and strides."""
    if (stored := stored_array(array)) is not None:
        return (array.dtype, *memory_key(stored))
    return (_address(array), array.dtype, array.shape, array.strides)


def distinct_arrays(arrays: Iterable[Array]) -> list[Array]:
    """Return each array once, however many names it has."""
    return list({memory_key(array): array for array in arrays}.values())


def file_bytes(arrays: Iterable[Array]) -> int:
    """Return the number of bytes that `write` would write."""
    end = 0
    for array in arrays:
        end = _align(end, array.nbytes) + array.nbytes
    return end


def write(stream: IO[bytes] | Any, arrays: Iterable[Array]) -> list[int]:
    """Write arrays to a stream in order, each aligned to a page. Return the offset of each. Memory-mapped arrays are
    released from memory afterwards."""
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
    """Return the graph with those constants replaced that `files` has mapped from files, by `memory_key`. Small views
    of larger arrays are copied, since otherwise the bias of one layer would keep its whole checkpoint in memory."""

    def map_array(array: Array) -> Array:
        there = files.get(memory_key(array), array)
        return there.copy() if there.nbytes < LARGE and there.base is not None else there

    return replace(graph, constants={name: map_array(array) for name, array in graph.constants.items()})


def folder_finder(folder: Path) -> Callable[[Array], FilePlace | None]:
    """Return a function that finds the file and offset of a memory-mapped array, as `place_of` does, but returns None
    for files outside `folder`."""
    home = folder.resolve()

    def find(array: Array) -> FilePlace | None:
        place = place_of(array)
        return place if place is not None and place.file.parent.resolve() == home else None

    return find


def seldom_read(graph: Graph, files: Iterable[Path]) -> frozenset[str]:
    """Return the names of weight files from which a graph reads some bytes, but less than a fraction LEAST_SHARE of the
    file."""
    taken: dict[Path, int] = {}
    for array in distinct_arrays(large_constants(graph).values()):
        if (place := place_of(array)) is not None:
            file = place.file.resolve()
            taken[file] = taken.get(file, 0) + array.nbytes
    known = (file for file in files if file.resolve() in taken)
    return frozenset(file.name for file in known if taken[file.resolve()] < LEAST_SHARE * file.stat().st_size)


def are_equal(left: Array, right: Array) -> bool:
    """Return whether two arrays have equal shapes and elements. The first elements are compared first, because
    different arrays mostly differ there."""
    return all(np.array_equal(left[part], right[part]) for part in (slice(1), slice(1, None)))


def _root(array: Array) -> Array:
    """Return the array that an array is a view of."""
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
    """Yield the bytes of an array in order, little-endian as in ONNX. A transposed array is copied block by block,
    and so is one that is stored in another type."""
    is_stored = stored_array(array) is not None
    if array.ndim == 0 or array.nbytes <= BLOCK or (not is_stored and array.flags.c_contiguous):
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
