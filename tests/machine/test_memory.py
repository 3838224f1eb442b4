"""Free memory is the machine's, or a container's where that is less."""

from fewstep.machine.memory import memory, peak


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
