"""The heap of a command's process: a library leaves that to its host."""

import ctypes

M_ARENA_MAX = -8  # of glibc's malloc.h


def use_one_heap() -> None:
    """Let all threads of this process allocate from one heap.

    glibc opens another for each thread that finds one taken, and what is freed stays in the heap that it came from: by
    chance of which thread held what, calibrating peaks up to 10 % higher. Heaps that are open already stay. Other C
    libraries have no such setting.
    """
    try:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    except (AttributeError, OSError, TypeError):  # musl and macOS; none; Windows
        return
