"""`fewstep doctor`: print the properties of this machine, then each problem or missing part with its fix."""

from collections.abc import Iterator

from rich.filesize import decimal

from fewstep.cli.outcome import Outcome
from fewstep.report.diagnosis import Diagnosis, DoctorOptions, diagnose
from fewstep.runtime.machine.packages import EXTRAS
from fewstep.runtime.progress import Progress

NAME_WIDTH = 10


def verb(options: DoctorOptions, progress: Progress) -> Outcome:
    seen = diagnose(options)
    return Outcome(seen, tuple(_lines(seen)), code=0 if seen.is_usable else 1)


def _lines(seen: Diagnosis) -> Iterator[str]:
    for name, text in _facts(seen):
        yield f"{name:{NAME_WIDTH}} {text}"
    yield ""
    for finding in seen.findings:
        yield f"{finding.level}: {finding.what}"
        yield f"    {finding.fix}"
    if not seen.findings:
        yield "nothing is missing"


def _facts(seen: Diagnosis) -> Iterator[tuple[str, str]]:
    yield "fewstep", f"{seen.fewstep or 'run from a folder, not installed'}, python {seen.python}, {seen.system}"
    is_limited = seen.cpu.quota is not None and seen.cpu.quota < seen.cpu.cores
    cores = f"{seen.cpu.quota:g} of {seen.cpu.cores} cores" if is_limited else f"{seen.cpu.cores} cores"
    int8 = ", ".join(seen.cpu.int8_instructions) or "no int8 instructions found"
    yield "cpu", f"{seen.cpu.name}, {cores}; {int8}{', avx512' * seen.cpu.has_avx512}"
    space = seen.space
    memory = "unknown" if space.memory_free is None else f"{decimal(space.memory_free)} free"
    total = "" if space.memory_total is None else f" of {decimal(space.memory_total)}"
    yield "memory", f"{memory}{total}"
    yield "disk", f"{decimal(space.disk_free)} free, {decimal(space.temporary_free)} for temporary files"
    for gpu in seen.gpus:
        free = "" if gpu.free_mib is None else f", {gpu.free_mib} of {gpu.memory_mib} MiB free"
        yield "gpu", f"{gpu.name} ({gpu.sm}), driver {gpu.driver}{free}"
    if not seen.gpus:
        yield "gpu", "none listed by nvidia-smi"
    if seen.jetson is not None:
        yield "jetson", f"{seen.jetson.model}, JetPack {seen.jetson.jetpack or 'unknown'} (L4T {seen.jetson.l4t})"
        yield "tensorrt", f"{seen.jetson.tensorrt}; {seen.jetson.note}"
    for code in seen.cuda_code:
        have = [*(f"sm{sm}" for sm in code.machine), *(f"PTX of sm{sm}" for sm in code.ptx)]
        yield "cuda code", f"{code.engine}: {', '.join(have) or 'none found in ' + ', '.join(code.files)}"
    yield "backends", ", ".join(seen.backends) or "none"
    if seen.engine is not None and not seen.engine.error:
        yield "providers", ", ".join(seen.engine.providers)
    yield "packages", ", ".join(f"{name} {version}" for name, version in seen.packages.items())
    yield "extras", ", ".join(extra for extra in EXTRAS if extra not in seen.missing)
