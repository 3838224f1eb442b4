"""The builders of `fewstep build`. A new builder is a value in BUILDERS."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import cuda
from fewstep.runtime.backends.checks import import_package
from fewstep.runtime.backends.qnn import BODIES as QNN_BODIES
from fewstep.runtime.backends.qnn import CHIPS, EMULATED
from fewstep.runtime.backends.tensorrt import INSTALL
from fewstep.runtime.bundle import platforms
from fewstep.runtime.bundle.engine_key import AMPERE, AMPERE_ON
from fewstep.runtime.bundle.platforms import TENSORRT as TENSORRT_PLATFORM
from fewstep.runtime.bundle.platforms import body_name

Flags = dict[str, bool | int]

STRICT: Flags = {"strongly_typed": True, "tf32": False}  # every engine computes in the types of its graph
COMPILED = MappingProxyType(
    {
        "int8": (body_name("int8", TENSORRT_PLATFORM.name),),
        "float16": (body_name("float16"),),
        "bfloat16": (body_name("bfloat16"),),
        "float32": (body_name("float32"),),
    }
)
COMPATIBLE = frozenset({"version_compatible", "hardware_compatible"})
FLOAT32_SCALES = "float32_scales"  # this flag changes the graph; the others change the builder's settings


@dataclass(frozen=True)
class EngineBuilder:
    """A compiler of engines, or a backend that needs its own body and compiles at run time.

    name: name of the backend that runs the engines.
    module: its Python module; None for a backend that compiles at run time.
    install: the command that installs the module.
    bodies: the names of bodies for each precision; the first one that the bundle has is compiled.
    oldest: the oldest supported version.
    devices: compute capabilities, or chips, that it can compile for without the device; empty if it compiles only for
        the GPU of this machine.
    usual: the default devices.
    options: the supported flags, besides the workspace.
    sees_gpu: whether it builds on the GPU itself, where it times kernels, and can load and inspect an engine.
    no_float32: devices without float32 matrix products; the prologue then runs on the CPU.
    worker: the script in graph/engines/ that builds in the child process; None for that of TensorRT.
    has_one_size: whether an engine runs only at the preferred batch and sizes.
    writes_forms: whether `build` writes a form of a body, which the backend compiles at run time.
    """

    name: str
    module: str | None
    install: str
    bodies: Mapping[str, tuple[str, ...]]
    oldest: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()
    sees_gpu: bool = False
    no_float32: frozenset[str] = frozenset()
    worker: str | None = None
    has_one_size: bool = False
    writes_forms: bool = False

    def version(self) -> str:
        """Return the version of the module. Raises UserError if it is not installed or too old."""
        version = str(self._module().__version__)
        if tuple(int(number) for number in re.findall(r"\d+", version)) < self.oldest:
            raise UserError(
                f"{self.name} {version} is too old: fewstep needs {'.'.join(map(str, self.oldest))} or later",
                self.install,
            )
        return version

    def _module(self) -> Any:
        return import_package(self.module or "", f"{self.name} cannot build here: {self.module}", self.install)

    def targets(self, devices: tuple[str, ...], flags: Flags) -> dict[str, int | None]:
        """Return the number of multiprocessors of each device to build for; None if it does not matter. `check_options`
        has checked the names of devices that are not present."""
        if self.devices:
            return dict.fromkeys(devices or self.usual)
        here, multiprocessors = cuda.describe(0)
        for device in devices:
            if device != here:
                raise UserError(
                    f"{self.name} builds only for this machine's GPU, {here}, not for {device}",
                    f"build on the device itself, or with --backend {TENSORRT_RTX.name}",
                )
        if not flags.get("hardware_compatible"):
            return {here: multiprocessors}
        if int(here.removeprefix("sm")) < AMPERE:
            raise UserError(
                f"{here} is older than Ampere", "build on Ampere or later, or without --hardware-compatible"
            )
        return {AMPERE_ON: None}


TENSORRT_RTX = EngineBuilder(
    name="tensorrt-rtx",
    module="tensorrt_rtx",
    install=INSTALL["tensorrt-rtx"],
    bodies=COMPILED,
    devices=("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"),  # Turing, Ampere, its RTX, Ada, and both Blackwells
    usual=("sm86", "sm89", "sm120"),
    options=frozenset({FLOAT32_SCALES}),
    no_float32=frozenset({"sm75"}),  # tensorrt-rtx 1.7: "FP32 GEMM is not supported"
)
TENSORRT = EngineBuilder(
    name="tensorrt",
    module="tensorrt",
    install=INSTALL["tensorrt"],
    bodies=COMPILED,
    oldest=(10, 3),
    options=COMPATIBLE | {"dla", FLOAT32_SCALES},
    sees_gpu=True,
)
QNN = EngineBuilder(
    name=platforms.QNN.name,
    module="onnxruntime_qnn",
    install="pip install 'fewstep[qnn]'",
    bodies=QNN_BODIES,
    worker="qnn_worker.py",
    has_one_size=True,
    devices=tuple(CHIPS),
    usual=(EMULATED,),
    no_float32=frozenset(CHIPS),
)
ONNXRUNTIME_CUDA = EngineBuilder(
    name="onnxruntime-cuda",
    module=None,
    install="pip install 'fewstep[gpu]'",
    bodies=MappingProxyType({precision: (precision,) for precision in ("float16", "bfloat16", "float32")}),
    writes_forms=True,
)
BUILDERS = (TENSORRT_RTX, TENSORRT, QNN, ONNXRUNTIME_CUDA)


def builder_of(name: str) -> EngineBuilder:
    for builder in BUILDERS:
        if builder.name == name:
            return builder
    names = ", ".join(builder.name for builder in BUILDERS)
    raise UserError(f"unknown backend {name!r} to build for", f"choose from {names}")
