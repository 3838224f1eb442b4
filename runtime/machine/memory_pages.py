"""Return memory of this process to the system."""

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

M_MMAP_THRESHOLD = -3  # from glibc's malloc.h
LARGE_BLOCK = 4 << 20  # bytes; each such block costs a system call, and the zeros of its pages
LARGEST_IN_HEAP = 32 << 20  # the size up to which glibc comes to take blocks from its heap by itself


def release_free_memory() -> None:
    """Return freed memory of this process to the operating system.

    glibc keeps freed pages whose addresses are below memory that is still in use: some hundred MB after a large network
    (measured). Other C libraries have no such call; there, nothing is done.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # musl and macOS; none; Windows
        return


def drop_pages(address: int, size: int) -> None:
    """Drop the whole pages within `size` bytes from an address.

    Pages of a mapped file are read again when needed; other pages become zeros. On systems without `madvise` nothing
    happens.
    """
    start, end = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE, (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end and hasattr(mmap, "MADV_DONTNEED"):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


@contextmanager
def return_large_blocks(is_short: bool) -> Iterator[None]:
    """Let glibc return each block of LARGE_BLOCK bytes or more to the operating system as soon as it is freed, within a
    `with` statement, if memory `is_short`. It is a setting of the process, which a library must not change for its
    host.

    By default glibc takes blocks of up to 32 MB from its heap once one of that size was freed, and activations of other
    sizes then leave gaps. Other C libraries have no such setting.
    """
    if not is_short:
        yield
        return
    _map_blocks_from(LARGE_BLOCK)
    try:
        yield
    finally:
        _map_blocks_from(LARGEST_IN_HEAP)


def _map_blocks_from(size: int) -> None:
    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, size)
    except (AttributeError, OSError, TypeError):  # musl and macOS; none; Windows
        return
