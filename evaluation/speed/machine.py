"""What a measurement was made on: processor, cores, versions. No user, no host name, no path."""

import platform

import msgspec

from fewstep.machine.cpu import this_cpu
from fewstep.machine.packages import version_of

PACKAGES = ("fewstep", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The processor as its operating system names it, and the cores this process may use."""

    processor: str
    cores: int
    int8_instructions: tuple[str, ...]
    system: str
    versions: dict[str, str]


def this_machine() -> Machine:
    """Look at the machine this runs on."""
    cpu = this_cpu()
    return Machine(
        processor=cpu.name,
        cores=cpu.cores,
        int8_instructions=cpu.int8_instructions,
        system=f"{platform.system()} {platform.machine()}",
        versions={"python": platform.python_version(), **_installed()},
    )


def _installed() -> dict[str, str]:
    return {package: found for package in PACKAGES if (found := version_of(package)) is not None}
