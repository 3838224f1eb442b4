"""The malloc setting of a command's process. A library must not change it for its host."""

import ctypes

M_ARENA_MAX = -8  # from glibc's malloc.h


def use_one_heap() -> None:
    """Let all threads of this process allocate from one heap (glibc arena).

    By default glibc opens another arena when a thread finds the others locked, and freed memory stays in its arena. The
    peak memory of calibration then varies with the scheduling of threads, by up to 10 %. Arenas that exist already
    remain. Other C libraries have no such setting.
    """
    try:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    except (AttributeError, OSError, TypeError):  # musl and macOS; no C library; Windows
        return
