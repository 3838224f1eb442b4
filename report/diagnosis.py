"""`fewstep doctor`: what is installed on this machine, what is missing, and the command that fixes each problem."""

import platform
import re
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, OPENVINO, PLATFORMS, rank_platforms
from fewstep.runtime.bundle.unsuited_bodies import SATURATES, describe_loss
from fewstep.runtime.machine.cpu import Cpu, this_cpu
from fewstep.runtime.machine.cuda_code import CudaCode, cuda_code_of_engines
from fewstep.runtime.machine.gpu import Gpu, Jetson, gpu_of, these_gpus, this_jetson
from fewstep.runtime.machine.memory import Space, this_space
from fewstep.runtime.machine.packages import (
    EXTRAS,
    JETPACK,
    RUNTIMES,
    OnnxRuntimeImport,
    missing_packages,
    package_versions,
    this_onnxruntime,
    version_of,
)
from fewstep.runtime.options import Options

LEAST_RUNTIME = (1, 21)  # the oldest tested version of onnxruntime
LEAST_TENSORRT_11 = (11, 4, 1)  # the first TensorRT 11 that NVIDIA supports on a Jetson
LEAST_MEMORY = 2 * 2**30  # bytes that the calibration of a small denoiser needs
LEAST_DISK = 2**30

TENSORRTS = ("tensorrt", "tensorrt-rtx")
CUDA = "cuda-bindings"  # packages that are also needed to run their engines
NVIDIAS_BUILD = "install NVIDIA's build for this JetPack: docs/jetson.md has a table"  # of onnxruntime-gpu
JETPACKS_TENSORRT = "use JetPack's TensorRT: docs/jetson.md has the commands"

Level = Literal["problem", "missing", "note", "optional"]


@dataclass(frozen=True)
class DoctorOptions(Options):
    """Check this machine: what fewstep can do here, what is missing, and the commands that install it.

    folder: The folder for future bundles (exported models), whose free space is shown.
    """

    folder: Path = Path()


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finding about this machine.

    level: "problem" if no bundle can run here, "missing" if hardware of this machine is unused, "note" for a useful
        fact, "optional" for a package that is only needed for some uses.
    """

    level: Level
    what: str
    fix: str


class Diagnosis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `fewstep doctor` found out about this machine. `fewstep` is the installed version; None if it runs from a
    folder without installation."""

    fewstep: str | None
    python: str
    system: str
    cpu: Cpu
    space: Space
    gpus: tuple[Gpu, ...]
    jetson: Jetson | None
    cuda_code: tuple[CudaCode, ...]
    packages: dict[str, str]
    engine: OnnxRuntimeImport | None
    backends: tuple[str, ...]
    missing: dict[str, tuple[str, ...]]  # extra -> packages
    findings: tuple[Finding, ...]

    @property
    def is_usable(self) -> bool:
        """Whether bundles can be run on this machine at all."""
        return all(finding.level != "problem" for finding in self.findings)


def diagnose(options: DoctorOptions) -> Diagnosis:
    """Return what was found out about this machine: packages, processor, memory, GPUs and disk space. Nothing is
    installed or changed, and only onnxruntime is loaded."""
    packages, engine, jetson = package_versions(), this_onnxruntime(), this_jetson()
    code = cuda_code_of_engines()
    gpus = these_gpus() or ((gpu_of(jetson),) if jetson is not None else ())
    wanted = options.folder.absolute()
    folder = next(place for place in (wanted, *wanted.parents) if place.exists())  # the nearest existing parent
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", "give --folder the folder that bundles will be written to")
    seen = Diagnosis(
        fewstep=version_of("fewstep"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=this_cpu(),
        space=this_space(folder, Path(tempfile.gettempdir())),
        gpus=gpus,
        jetson=jetson,
        cuda_code=code,
        packages=packages,
        engine=engine,
        backends=tuple(_backends(engine, gpus, packages, code)),
        missing=missing_packages(packages),
        findings=(),
    )
    all_findings = [*findings(seen)]
    if folder != wanted:
        what = f"the folder {options.folder} does not exist: the free space is that of {folder}"
        all_findings.append(Finding("note", what, f"mkdir -p {shlex.quote(str(options.folder))}, or check the path"))
    return msgspec.structs.replace(seen, findings=tuple(all_findings))


def findings(seen: Diagnosis) -> Iterator[Finding]:
    """Yield the findings about this machine, the most severe first."""
    yield from _engine_findings(seen)
    yield from _gpu_findings(seen)
    yield from _code_findings(seen)
    yield from _machine_findings(seen)
    for extra, names in seen.missing.items():
        if extra not in ("cpu", "gpu"):  # an inference engine is judged above
            fix = f"pip install 'fewstep[{extra}]'"
            if "onnxruntime-gpu" in seen.packages and "onnxruntime" in EXTRAS[extra][1]:
                fix = f"pip install {' '.join(names)}"  # the extra would install onnxruntime over onnxruntime-gpu
            if seen.jetson is not None and JETPACK in names:
                fix = f"TensorRT comes with JetPack: apt install python3-libnvinfer; for the rest: {fix}"
            yield Finding("optional", f"{EXTRAS[extra][0]}: {', '.join(names)} not installed", fix)


def _backends(
    engine: OnnxRuntimeImport | None, gpus: tuple[Gpu, ...], packages: dict[str, str], code: tuple[CudaCode, ...]
) -> Iterator[str]:
    """Yield the engines that could run a bundle here. The libraries of a listed provider may still fail to load."""
    useless = {library.engine for library in code if gpus and all(lacks_code(library, gpu) for gpu in gpus)}
    if engine is not None and not engine.error:
        yield "onnxruntime"
        if gpus and "CUDAExecutionProvider" in engine.providers and "onnxruntime" not in useless:
            yield "onnxruntime-cuda"
    if "openvino" in packages:
        yield "openvino"
    if "onnxruntime-qnn" in packages:
        yield "qnn"
    yield from (name for name in TENSORRTS if gpus and {name, CUDA} <= packages.keys() and name not in useless)


def lacks_code(code: CudaCode, gpu: Gpu) -> bool:
    """Return whether a library has code, but none that this GPU can run."""
    number = gpu.sm.removeprefix("sm")
    return code.is_found and number.isdigit() and not code.runs_on(int(number))


def _engine_findings(seen: Diagnosis) -> Iterator[Finding]:
    """Yield findings about the installed packages of onnxruntime: two that overwrite each other, none, or one that does
    not suit the machine."""
    both = [name for name in RUNTIMES if name in seen.packages]
    extra = "gpu" if seen.gpus else "cpu"
    if len(both) == 2:
        yield Finding(
            "problem",
            "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files",
            f"pip uninstall -y {' '.join(both)}; then {NVIDIAS_BUILD}"
            if seen.jetson is not None
            else f"pip uninstall -y {' '.join(both)} && pip install 'fewstep[{extra}]'",
        )
    if seen.engine is None:
        yield Finding("problem", "no inference engine: onnxruntime is not installed", "pip install 'fewstep[cpu]'")
    elif seen.engine.error:
        again = " ".join(both) or "onnxruntime"
        fix = NVIDIAS_BUILD if _has_jetson_runtime(seen) else f"pip install --force-reinstall {again}"
        yield Finding("problem", f"onnxruntime cannot be imported: {seen.engine.error}", fix)
    elif tuple(map(int, re.findall(r"\d+", seen.engine.version)[:2])) < LEAST_RUNTIME:
        least = ".".join(map(str, LEAST_RUNTIME))
        yield Finding(
            "problem",
            f"onnxruntime {seen.engine.version} is older than {least}",
            NVIDIAS_BUILD
            if _has_jetson_runtime(seen)
            else f"pip install --upgrade '{(both or ['onnxruntime'])[0]}>={least}'",
        )


def _has_jetson_runtime(seen: Diagnosis) -> bool:
    """Return whether onnxruntime-gpu runs on a Jetson, for which PyPI has no build."""
    return seen.jetson is not None and "onnxruntime-gpu" in seen.packages


def _gpu_findings(seen: Diagnosis) -> Iterator[Finding]:
    """Yield the findings on GPU packages: TensorRT without the CUDA package, a GPU without a GPU backend,
    onnxruntime-gpu without a GPU, and a TensorRT that does not fit its JetPack."""
    engines = [name for name in TENSORRTS if name in seen.packages]
    if seen.gpus and engines and CUDA not in seen.packages:
        fix = f"pip install '{CUDA}=={seen.gpus[0].cuda}.*'"
        yield Finding("missing", f"{engines[0]} can build engines but not run them: {CUDA} is not installed", fix)
    elif seen.gpus and not any("cuda" in name or "tensorrt" in name for name in seen.backends):
        swap = "pip uninstall -y onnxruntime && " if "onnxruntime" in seen.packages else ""
        yield Finding(
            "missing",
            f"{seen.gpus[0].name} is unused: no GPU backend is installed",
            f"{swap}pip install 'fewstep[gpu]'" if seen.jetson is None else JETPACKS_TENSORRT,
        )
    if not seen.gpus and "onnxruntime-gpu" in seen.packages:
        yield Finding(
            "note",
            "onnxruntime-gpu is installed but no GPU was found, so it runs on the CPU",
            "check with nvidia-smi which GPUs the driver sees",
        )
    yield from _jetpack_findings(seen)


def _jetpack_findings(seen: Diagnosis) -> Iterator[Finding]:
    """Yield a finding on a TensorRT 11 that NVIDIA does not support on this JetPack."""
    jetson, tensorrt = seen.jetson, seen.packages.get("tensorrt", "")
    if jetson is None or not tensorrt.startswith("11."):
        return
    if jetson.jetpack.startswith("6"):
        what = f"TensorRT {tensorrt} does not run on JetPack {jetson.jetpack}"
        yield Finding("problem", what, "use the TensorRT 10 of JetPack")
    elif tuple(map(int, re.findall(r"\d+", tensorrt)[:3])) < LEAST_TENSORRT_11:
        what = f"NVIDIA supports TensorRT {tensorrt} on no JetPack; on AGX Orin with 7.2 it was reported to run"
        yield Finding("note", what, "use the TensorRT 10 of JetPack, or 11.4.1 and later from JetPack 7.2.2 on")


def _code_findings(seen: Diagnosis) -> Iterator[Finding]:
    """Yield a finding for each CUDA library without code for a GPU of this machine."""
    for code in seen.cuda_code:
        for gpu in seen.gpus:
            if not lacks_code(code, gpu):
                continue
            version = next((seen.packages[name] for name in _packages_of(code.engine) if name in seen.packages), "")
            have = ", ".join(f"sm{sm}" for sm in code.machine) or "PTX of later GPUs only"
            yield Finding(
                "missing",
                f"{code.engine} {version} has no code for {gpu.sm} ({gpu.name}): its libraries have {have}",
                NVIDIAS_BUILD
                if seen.jetson is not None
                else f"install a version of {code.engine} that was built for {gpu.sm}",
            )


def _packages_of(engine: str) -> tuple[str, ...]:
    """Return the names of the packages that may contain an engine."""
    return tuple(reversed(RUNTIMES)) if engine == "onnxruntime" else (engine,)


def _machine_findings(seen: Diagnosis) -> Iterator[Finding]:
    """Yield findings about the processor, memory and disk space."""
    cpu, space = seen.cpu, seen.space
    losses = {target.name: loss for target in PLATFORMS if (loss := describe_loss(target, cpu)) is not None}
    if losses:
        saturating = ", ".join(name for name, loss in losses.items() if loss == SATURATES)
        suited = ",".join(rank_platforms(backend, cpu)[0].name for backend in (ONNXRUNTIME, OPENVINO.backend))
        yield Finding(
            "note",
            f"no VNNI was found: int8 saves less time, and int8 sums of {saturating} saturate",
            f"calibrate for targets that suit this CPU: fewstep calibrate BUNDLE --target {suited}",
        )
    if space.memory_free is not None and space.memory_free < LEAST_MEMORY:
        yield Finding(
            "note",
            f"only {space.memory_free / 1e6:,.0f} MB of memory are free; export and calibrate need more than running",
            "close other programs before fewstep export or calibrate",
        )
    for where, free in (("the folder", space.disk_free), ("the folder of temporary files", space.temporary_free)):
        if free < LEAST_DISK:
            yield Finding("note", f"only {free / 1e6:,.1f} MB are free in {where}", "free space there, or set TMPDIR")
