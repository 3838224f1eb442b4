"""The cores and threads that this process may use, on described processors."""

from pathlib import Path

import pytest

from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.machine import cpu
from fewstep.runtime.machine.cpu import default_threads, engine_threads, physical_cores, usable_threads

PROCESSORS = [(socket, core) for socket in (0, 1) for core in (0, 1)] * 2  # two threads per core: 0 and 4, 1 and 5, ...


def describe(
    folder: Path, monkeypatch: pytest.MonkeyPatch, allowed: set[int], quota: float | None = None, has_cores: bool = True
) -> None:
    """Describe two sockets of two cores of two threads, of which this process may use some processors."""
    places = enumerate(PROCESSORS)
    texts = (f"processor\t: {n}" + f"\nphysical id\t: {s}\ncore id\t\t: {c}" * has_cores for n, (s, c) in places)
    (folder / "cpuinfo").write_text("\n\n".join(texts) + "\n\n")
    monkeypatch.setattr(cpu, "CPUINFO", folder / "cpuinfo")
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda process: allowed, raising=False)
    monkeypatch.setattr(cpu, "cpu_quota", lambda: quota)


@pytest.mark.parametrize(
    ("allowed", "quota", "threads", "default"),
    [
        ({0, 1, 2, 3, 4, 5, 6, 7}, None, 8, 4),
        ({3}, None, 1, 1),
        ({0, 4}, None, 2, 1),  # the two threads of one core
        ({0, 1, 4}, None, 3, 2),
        ({0, 1, 2, 3, 4, 5, 6, 7}, 1.5, 2, 2),
        ({0, 1, 2, 3, 4, 5, 6, 7}, 0.3, 1, 1),
        ({0, 1, 2, 3, 4, 5, 6, 7}, 6.0, 6, 4),
        ({2, 3}, 7.0, 2, 2),
    ],
)
def test_threads_are_limited_by_cores_affinity_and_quota(
    allowed: set[int],
    quota: float | None,
    threads: int,
    default: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    describe(tmp_path, monkeypatch, allowed, quota)
    assert (usable_threads(), default_threads()) == (threads, default)


def test_without_a_description_of_cores_every_processor_is_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(tmp_path, monkeypatch, {0, 1, 4}, has_cores=False)
    assert (physical_cores(), default_threads()) == (0, 3)


def test_an_engine_gets_the_threads_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(tmp_path, monkeypatch, {0})
    assert (engine_threads(3), engine_threads(0)) == (3, 1)


def test_a_session_has_the_default_number_of_threads(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for allowed in {0, 1}, {0}:
        describe(tmp_path, monkeypatch, allowed)
        options = OnnxRuntime().open(tiny_bundle / "graphs/body.onnx").session.get_session_options()
        assert options.intra_op_num_threads == len(allowed)


@pytest.mark.parametrize(
    ("machine", "field", "instructions"),
    [
        ("x86_64", "flags", ("avx2", "amx_int8")),
        ("aarch64", "flags", ()),  # emulated: the file is that of the host
        ("aarch64", "Features", ("asimddp",)),
    ],
)
def test_instructions_are_those_of_the_architecture(
    machine: str, field: str, instructions: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = "avx2 amx_int8" if field == "flags" else "fp asimddp"
    (tmp_path / "cpuinfo").write_text(f"{field}\t\t: {given}\n")
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    assert cpu.this_cpu().int8_instructions == instructions
