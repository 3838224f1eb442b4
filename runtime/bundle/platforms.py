"""The platforms on which the bodies of each target run, and the names of these bodies.

The runtime selects bodies by this table, and reports use it to open them. A `Target` of calibration creates the bodies.
"""

from dataclasses import dataclass, replace
from typing import Literal

from fewstep.runtime.machine.cpu import EXACT, Cpu, this_cpu

CpuKind = Literal["x86", "arm"]
Quantized = Literal["int8", "int8-weights", "int4-weights"]

PORTABLE = "portable"  # the target of float bodies, which every backend runs
ONNXRUNTIME = "onnxruntime"
ARM = ("aarch64", "arm64", "ARM64")  # the machine names of Linux, macOS and Windows


@dataclass(frozen=True)
class Platform:
    """The platform that runs the bodies of one target.

    name: the target's name, as in `Body.target`.
    precision: the precision of its bodies.
    backend: the backend that runs the bodies, by its name in `backends.registry`.
    label: the backend's name in reports.
    cpu: the CPU architecture on which the bodies are fastest; None means every processor that the backend supports.
    saturates: whether the sum of two 8-bit products may exceed 16 bits, in which x86 CPUs without VNNI add them.
        OpenVINO's sums then saturate. The backends for ONNX Runtime add in 32 bits instead, which is slower.
    simulated: whether onnxruntime simulates the bodies' 8-bit rounding in reports, because their engine needs a device.
    notes: what a user of the bodies must know.
    """

    name: str
    backend: str
    label: str
    precision: Quantized = "int8"
    cpu: CpuKind | None = None
    saturates: bool = False
    simulated: bool = False
    notes: tuple[str, ...] = ()


CPU_X86 = Platform(
    *("cpu-x86", ONNXRUNTIME, ONNXRUNTIME, "int8", "x86"),
    saturates=True,
    notes=("for x86 CPUs with VNNI: without it cpu-x86-no-vnni is faster",),
)
CPU_X86_NO_VNNI = replace(
    CPU_X86,
    name="cpu-x86-no-vnni",
    saturates=False,
    notes=("for x86 CPUs without VNNI: with it cpu-x86 is as fast and finer",),
)
CPU_ARM = replace(
    CPU_X86_NO_VNNI,
    name="cpu-arm",
    cpu="arm",
    notes=("the same samples as cpu-x86, calibrated alike; its times on a CPU that isn't ARM say nothing of ARM",),
)
TENSORRT = Platform("tensorrt", "tensorrt", "TensorRT", simulated=True)
OPENVINO = Platform(
    *("openvino", "openvino", "OpenVINO"),
    saturates=True,
    notes=("exact on x86 CPUs with VNNI: others add pairs of 8-bit products in 16 bits, and saturate",),
)
OPENVINO_NO_VNNI = replace(
    OPENVINO,
    name="openvino-no-vnni",
    saturates=False,
    notes=("for x86 CPUs without VNNI: with it openvino is as fast and finer",),
)
OPENVINO_BF16 = Platform(
    *("openvino-bf16", "openvino-bf16", "OpenVINO in bf16"),
    saturates=True,
    notes=(*OPENVINO.notes, "float32 between convolutions where the CPU has no bf16"),
)
QNN = Platform(
    *("qnn", "qnn", "QNN"),
    simulated=True,
    notes=("every tensor has 16 bits, every weight 8",),
)
QNN_8BIT = replace(
    QNN,
    name="qnn-8bit",
    notes=("inner operations with weights read 8 bits; every other tensor has 16 bits, every weight 8",),
)

INT8_WEIGHTS = Platform("int8-weights", ONNXRUNTIME, ONNXRUNTIME, "int8-weights")
INT4_WEIGHTS = replace(INT8_WEIGHTS, name="int4-weights", precision="int4-weights")

PLATFORMS = (
    *(CPU_X86, CPU_X86_NO_VNNI, CPU_ARM, TENSORRT, OPENVINO, OPENVINO_NO_VNNI, OPENVINO_BF16, QNN, QNN_8BIT),
    *(INT8_WEIGHTS, INT4_WEIGHTS),
)
SUCCESSORS = {"cpu-x86-7bit": CPU_X86_NO_VNNI, "openvino-7bit": OPENVINO_NO_VNNI}  # of targets of earlier versions
RETIRED = tuple(replace(new, name=name) for name, new in SUCCESSORS.items())  # whose bodies run and are not made now
Bits = Literal[4, 8]  # of weights in integers whose activations are float
WEIGHTS_ONLY = (INT8_WEIGHTS.precision, INT4_WEIGHTS.precision)  # precisions whose activations are float


def is_core(target: str) -> bool:
    """Return True for fewstep's built-in targets, also those of earlier versions, and for the target of float
    bodies."""
    return target == PORTABLE or any(platform.name == target for platform in (*PLATFORMS, *RETIRED))


def platform_of(target: str, kept: Platform | None = None) -> Platform | None:
    """Return the platform of a target, or None for the target of float bodies.

    For a target that is not built in, return `kept`, the platform that the body stores, or None. No plugin is imported,
    because the target's name comes from a bundle.
    """
    found = next((platform for platform in (*PLATFORMS, *RETIRED) if platform.name == target), None)
    return kept if found is None and target != PORTABLE else found


def rank_platforms(backend: str, cpu: Cpu | None = None) -> tuple[Platform, ...]:
    """Return the platforms of a backend for int8 bodies. Given a CPU, those of earlier versions are included, and the
    best ones for the CPU come first: those of its architecture, and of these the ones that suit it."""
    known = PLATFORMS if cpu is None else (*PLATFORMS, *RETIRED)
    platforms = tuple(platform for platform in known if platform.backend == backend and platform.precision == "int8")
    if cpu is None:
        return platforms
    kind = cpu_kind(cpu.architecture)
    return tuple(sorted(platforms, key=lambda platform: (platform.cpu not in (None, kind), not suits(platform, cpu))))


def suits(platform: Platform, cpu: Cpu) -> bool:
    """Return whether a CPU computes a platform's bodies with exact sums and at full speed. x86 CPUs without VNNI do not
    if two products may exceed 16 bits (`Platform.saturates`)."""
    has_exact_sums = cpu_kind(cpu.architecture) != "x86" or not EXACT.isdisjoint(cpu.int8_instructions)
    return has_exact_sums or not platform.saturates


def needs_wide_sums(target: str, kept: Platform | None = None) -> bool:
    """Return whether ONNX Runtime must add the 8-bit products of a target's bodies in 32 bits on this CPU, because it
    would add them in 16 bits, which they may exceed. With VNNI this would only be slower. `kept` is the platform that a
    body stores."""
    platform = platform_of(target, kept)
    return platform is not None and not suits(platform, this_cpu())


def cpu_kind(architecture: str) -> CpuKind:
    """Return the CPU architecture for the machine name that the system reports."""
    return "arm" if architecture in ARM else "x86"


def body_name(precision: str, target: str = PORTABLE) -> str:
    """Return the name of a body in the manifest: "float32", "int8-" and the target, or "int8-weights"."""
    return precision if target in (PORTABLE, precision) else f"{precision}-{target}"


def target_of(body: str) -> str:
    """Return the target in a body's name."""
    return body if body in WEIGHTS_ONLY else body.partition("-")[2] or PORTABLE
