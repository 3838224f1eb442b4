"""Cores are the machine's, or a container's where those are fewer."""

from pathlib import Path

import pytest

from fewstep.runtime.machine import cpu
from fewstep.runtime.machine.cpu import cpu_quota, physical_cores, this_cpu, usable_cores


def test_a_container_limits_cores() -> None:
    assert cpu_quota("150000 100000\n") == 1.5 and cpu_quota("max 100000\n") is None and cpu_quota("") is None


def test_this_processor_is_read() -> None:
    assert this_cpu().architecture
    assert this_cpu().cores == usable_cores() >= 1


def test_threads_of_a_core_are_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = [(socket, core) for socket in (0, 1) for core in (0, 1)] * 2
    text = "\n\n".join(f"physical id\t: {socket}\ncore id\t\t: {core}" for socket, core in threads)
    (tmp_path / "cpuinfo").write_text(text + "\n\n")
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    assert physical_cores() == 4
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "nothing")
    assert physical_cores() == 0
