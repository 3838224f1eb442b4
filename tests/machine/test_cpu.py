"""Cores are the machine's, or a container's where those are fewer."""

from fewstep.machine.cpu import cpu_quota, this_cpu, usable_cores


def test_a_container_limits_cores() -> None:
    assert cpu_quota("150000 100000\n") == 1.5 and cpu_quota("max 100000\n") is None and cpu_quota("") is None


def test_this_processor_is_read() -> None:
    assert this_cpu().architecture
    assert this_cpu().cores == usable_cores() >= 1
