"""A described CPU in place of this machine's, for tests of what fewstep prefers on each kind of CPU."""

from pathlib import Path

import pytest

from fewstep.runtime.machine.cpu import X86

VNNI, NO_VNNI = ("avx2", "avx512_vnni"), ("avx2",)


def describe_cpu(
    monkeypatch: pytest.MonkeyPatch, folder: Path, instructions: tuple[str, ...], machine: str = "x86_64"
) -> None:
    """Make `this_cpu` report these int8 instructions, by a /proc/cpuinfo in the folder, and Python this machine."""
    field = "flags" if machine in X86 else "Features"
    (folder / "cpuinfo").write_text(f"model name : described\n{field} : {' '.join(instructions)}\n")
    monkeypatch.setattr("fewstep.runtime.machine.cpu.CPUINFO", folder / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: machine)
