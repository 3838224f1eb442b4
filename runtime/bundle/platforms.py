"""The platforms on which the bodies of each target run, and the names of these bodies.

The runtime selects bodies by this table, and reports use it to open them. A `Target` of calibration creates the bodies.
"""

from dataclasses import dataclass, replace
from typing import Literal

CpuKind = Literal["x86", "arm"]

PORTABLE = "portable"  # the target of float bodies, which every backend runs
ONNXRUNTIME = "onnxruntime"
ARM = ("aarch64", "arm64", "ARM64")  # the machine names of Linux, macOS and Windows


@dataclass(frozen=True)
class Platform:
    """The platform that runs the bodies of one target.

    name: the target's name, as in `Body.target`.
    backend: the backend that runs the bodies, by its name in `backends.registry`.
    label: the backend's name in reports.
    cpu: the CPU architecture on which the bodies are fastest; None means every processor that the backend supports.
    saturates: whether sums of 8-bit products saturate on x86 CPUs without VNNI.
    simulated: whether onnxruntime simulates the bodies' 8-bit rounding in reports, because their engine needs a device.
    notes: what a user of the bodies must know.
    """

    name: str
    backend: str
    label: str
    cpu: CpuKind | None = None
    saturates: bool = False
    simulated: bool = False
    notes: tuple[str, ...] = ()


CPU_X86 = Platform(
    *("cpu-x86", ONNXRUNTIME, ONNXRUNTIME, "x86"),
    saturates=True,
    notes=("exact on x86 CPUs with VNNI: others add pairs of 8-bit products in 16 bits, and saturate",),
)
CPU_X86_7BIT = replace(
    CPU_X86,
    name="cpu-x86-7bit",
    saturates=False,
    notes=("exact on every x86 CPU; where there is VNNI cpu-x86 is as fast and finer",),
)
CPU_ARM = replace(
    CPU_X86_7BIT,
    name="cpu-arm",
    cpu="arm",
    notes=("the same samples as cpu-x86, calibrated alike; its times on a CPU that isn't ARM say nothing of ARM",),
)
TENSORRT = Platform("tensorrt", "tensorrt", "TensorRT", simulated=True)
OPENVINO = Platform(
    *("openvino", "openvino", "OpenVINO"),
    notes=("exact on x86 CPUs with VNNI: others may add pairs of 8-bit products in 16 bits, and saturate",),
)
OPENVINO_BF16 = Platform(
    *("openvino-bf16", "openvino-bf16", "OpenVINO in bf16"),
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

PLATFORMS = (CPU_X86, CPU_X86_7BIT, CPU_ARM, TENSORRT, OPENVINO, OPENVINO_BF16, QNN, QNN_8BIT)


def is_core(target: str) -> bool:
    """Return True for fewstep's built-in targets, and for the target of float bodies."""
    return target == PORTABLE or any(platform.name == target for platform in PLATFORMS)


def platform_of(target: str, kept: Platform | None = None) -> Platform | None:
    """Return the platform of a target, or None for the target of float bodies.

    For a target that is not built in, return `kept`, the platform that the body stores, or None. No plugin is imported,
    because the target's name comes from a bundle.
    """
    found = next((platform for platform in PLATFORMS if platform.name == target), None)
    return kept if found is None and target != PORTABLE else found


def rank_platforms(backend: str, cpu: CpuKind | None = None, saturating: bool = False) -> tuple[Platform, ...]:
    """Return the platforms of a backend, best first: those for the CPU architecture `cpu`, then the others.

    saturating: whether this is an x86 CPU without VNNI. Platforms whose int8 saturates there then rank lower.
    """
    platforms = (platform for platform in PLATFORMS if platform.backend == backend)
    return tuple(sorted(platforms, key=lambda each: (each.cpu not in (None, cpu), saturating and each.saturates)))


def cpu_kind(architecture: str) -> CpuKind:
    """Return the CPU architecture for the machine name that the system reports."""
    return "arm" if architecture in ARM else "x86"


def body_name(precision: str, target: str = PORTABLE) -> str:
    """Return the name of a body in the manifest: "float32", or "int8-" and the target."""
    return precision if target == PORTABLE else f"{precision}-{target}"


def target_of(body: str) -> str:
    """Return the target in a body's name."""
    return body.partition("-")[2] or PORTABLE
