"""This machine's GPU, and the packages that use it."""

import time
from importlib.util import find_spec

from benchmarks.gpu.results import REHEARSAL, Machine
from fewstep.runtime.machine.gpu import Gpu, gpu_of, these_gpus, this_jetson
from fewstep.runtime.machine.packages import version_of

NO_GPU = "no NVIDIA GPU is seen here (nvidia-smi lists none); --rehearse goes on without one"
PACKAGES = (
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "nvidia-cudnn-cu13",
    "nvidia-cudnn-frontend",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "triton",
)


def seen() -> Gpu | None:
    """Return the first GPU of this machine."""
    jetson = this_jetson()
    return next(iter(these_gpus()), None) or (gpu_of(jetson) if jetson is not None else None)


def describe_machine(gpu: Gpu | None) -> Machine:
    """Describe this machine, today."""
    versions = {package: version for package in PACKAGES if (version := version_of(package)) is not None}
    return Machine(REHEARSAL if gpu is None else name_gpu(gpu), versions, time.strftime("%Y-%m-%d"))


def name_gpu(gpu: Gpu) -> str:
    """Return a GPU's name with its driver and memory."""
    memory = "" if gpu.free_mib is None else f", {gpu.free_mib} of {gpu.memory_mib} MiB free at the start"
    return f"{gpu.name} ({gpu.sm}), driver {gpu.driver}{memory}"


def tensorrt_of() -> str:
    """Return the installed package of TensorRT, or nothing."""
    return next((name for name in ("tensorrt", "tensorrt-rtx") if find_spec(name.replace("-", "_"))), "")
