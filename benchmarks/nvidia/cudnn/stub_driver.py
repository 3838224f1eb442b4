"""A libcuda.so.1 without a driver, so that cuDNN's compiler of fused kernels can be loaded and asked for its plans.

Each function returns 100, which is CUDA's error for a machine without a device. Six of the names are linked by
libcudnn_engines_runtime_compiled, and looked up by cuDNN when it is loaded. If one is missing, cuDNN lists no fused
int8 plan for H100, and says nothing about it.
"""

import subprocess
from hashlib import sha256
from pathlib import Path

from fewstep.plans.errors import UserError

FUNCTIONS = (
    "cuCtxGetCurrent",
    "cuCtxGetLimit",
    "cuCtxPopCurrent",
    "cuCtxPushCurrent",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuKernelGetAttribute",
    "cuKernelGetFunction",
    "cuKernelSetAttribute",
    "cuLaunchCooperativeKernel",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cuLibraryGetKernel",
    "cuLibraryLoadData",
    "cuLibraryLoadFromFile",
    "cuLibraryUnload",
    "cuLinkAddData",
    "cuLinkComplete",
    "cuLinkCreate",
    "cuLinkDestroy",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuOccupancyMaxPotentialClusterSize",
    "cuStreamGetCtx",
    "cuTensorMapEncodeIm2col",
    "cuTensorMapEncodeTiled",
)
SOURCE = "".join(f"int {name}(void) {{ return 100; }}\n" for name in FUNCTIONS)


def stub_folder(cache: Path) -> Path:
    """The folder of the library, which gcc builds unless it is there.

    Raises UserError if gcc is missing or fails.
    """
    folder = cache / f"libcuda-{sha256(SOURCE.encode()).hexdigest()[:12]}"
    library = folder / "libcuda.so.1"
    if library.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    source, partly = folder / "stub.c", folder / "libcuda.partial"
    source.write_text(SOURCE)
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(partly), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        raise UserError("gcc is not installed", "install it: it builds a library without a driver") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"gcc failed: {error.stderr.strip()[:300]}", "read what it says") from error
    partly.rename(library)
    return folder
