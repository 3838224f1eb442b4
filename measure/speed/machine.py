"""The machine of a measurement: processor, cores, versions. No user name, host name or path."""

import platform

import msgspec

from fewstep.runtime.machine.cpu import this_cpu
from fewstep.runtime.machine.gpu import these_gpus, this_jetson
from fewstep.runtime.machine.packages import version_of

REPORTED = ("fewstep", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The processor's name as the operating system reports it, and the cores that this process may use. `gpus` are the
    GPUs with compute capability and driver. `jetson` is the Jetson's model with its L4T and JetPack, or "" on other
    machines."""

    processor: str
    cores: int
    int8_instructions: tuple[str, ...]
    system: str
    versions: dict[str, str]
    gpus: tuple[str, ...] = ()
    jetson: str = ""


def this_machine() -> Machine:
    """Return the properties of the machine that this process runs on."""
    cpu, jetson = this_cpu(), this_jetson()
    installed = {package: version for package in REPORTED if (version := version_of(package)) is not None}
    return Machine(
        processor=cpu.name,
        cores=cpu.cores,
        int8_instructions=cpu.int8_instructions,
        system=f"{platform.system()} {platform.machine()}",
        versions={"python": platform.python_version(), **installed},
        gpus=tuple(f"{gpu.name} ({gpu.sm}), driver {gpu.driver}" for gpu in these_gpus()),
        jetson="" if jetson is None else f"{jetson.model}, L4T {jetson.l4t}, JetPack {jetson.jetpack or 'unknown'}",
    )
