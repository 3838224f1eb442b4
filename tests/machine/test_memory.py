"""Free memory is the machine's, or a container's where that is less."""

import ctypes

import pytest

from fewstep.machine.memory import give_back, held, memory, peak


def test_a_container_limits_memory() -> None:
    meminfo = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"
    assert memory(meminfo, "max", "5") == (16_384_000_000, 8_192_000_000)
    assert memory(meminfo, "1000000000", "400000000") == (1_000_000_000, 600_000_000)
    assert memory("", "", "") == (None, None)


def test_a_process_knows_its_peak() -> None:
    assert peak("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\n") == 2048 * 1024
    assert peak("") is None
    before = peak()
    assert before is None or 2**20 < before <= (peak() or 0)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_what_was_freed_below_something_held_is_given_back() -> None:
    freed = [bytearray(b"1" * 60_000) for _ in range(1000)]
    above = bytearray(b"1" * 60_000)
    del freed
    before = held()
    give_back()
    assert held() < before - 40_000_000 and above
