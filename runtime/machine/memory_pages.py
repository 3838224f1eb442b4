"""Memory that a process gives back to the system."""

import ctypes
import mmap


def release_free_memory() -> None:
    """Return what was freed to the system. glibc keeps freed pages below anything that is still held: behind a large
    network some hundred MB (measured). Other C libraries have no such call."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # musl and macOS; none; Windows
        return


def drop_pages(address: int, size: int) -> None:
    """Take what lies at an address out of memory: of a mapped file it is read again when needed, elsewhere it becomes
    zeros. Whole pages within `size` bytes alone are dropped. Nothing happens on systems without such a call."""
    start, end = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE, (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end and hasattr(mmap, "MADV_DONTNEED"):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
