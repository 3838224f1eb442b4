"""CUDA's libraries for a described GPU, so that ONNX Runtime's CUDA provider opens graphs on a machine without one.

Opening a session needs no kernel to run. It needs the facts of a GPU, memory, and copies of weights. Here memory is the
host's, and all other functions do nothing and return 0, which is success. The outputs of a call are therefore wrong,
and nothing here makes one.
"""

import subprocess
from hashlib import sha256
from pathlib import Path

from fewstep.plans.errors import UserError

PREFIXES = ("__cuda", "cublas", "cuda", "cudnn", "cufft", "curand", "nvrtc", "cuTensor")
# A GPU of compute capability 9.0 with 80 GiB: the facts that the provider reads. `cudaDeviceProp` begins as in CUDA 13.
SOURCE = r"""
#include <stdlib.h>
#include <string.h>
static int give(void **result, size_t size) { *result = calloc(1, size ? size : 1); return *result ? 0 : 2; }
int cudaMalloc(void **result, size_t size) { return give(result, size); }
int cudaMallocHost(void **result, size_t size) { return give(result, size); }
int cudaHostAlloc(void **result, size_t size, unsigned flags) { return give(result, size); }
int cudaMallocFromPoolAsync(void **result, size_t size, void *pool, void *stream) { return give(result, size); }
int cudaMemPoolCreate(void **result, void *properties) { return give(result, 8); }
int cudaStreamCreate(void **result) { return give(result, 8); }
int cudaStreamCreateWithFlags(void **result, unsigned flags) { return give(result, 8); }
int cudaEventCreate(void **result) { return give(result, 8); }
int cudaEventCreateWithFlags(void **result, unsigned flags) { return give(result, 8); }
int cublasCreate_v2(void **result) { return give(result, 8); }
int cublasLtCreate(void **result) { return give(result, 8); }
int cudaFree(void *memory) { free(memory); return 0; }
int cudaFreeHost(void *memory) { free(memory); return 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memcpy(to, from, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    memcpy(to, from, size);
    return 0;
}
int cudaMemset(void *memory, int value, size_t size) { memset(memory, value, size); return 0; }
int cudaMemsetAsync(void *memory, int value, size_t size, void *stream) { memset(memory, value, size); return 0; }
int cudaMemGetInfo(size_t *left, size_t *all) { *left = *all = (size_t)80 << 30; return 0; }
int cudaGetDevice(int *number) { *number = 0; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return 0; }
int cudaPointerGetAttributes(void *attributes, const void *memory) { memset(attributes, 0, 32); return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : attribute == 97 ? 232448 : 1024;
    return 0;
}
const char *cudaGetErrorName(int code) { return "described"; }
const char *cudaGetErrorString(int code) { return "a described GPU computes nothing"; }
const char *cublasGetStatusName(int code) { return "described"; }
const char *cublasGetStatusString(int code) { return "a described GPU computes nothing"; }
void **__cudaRegisterFatBinary(void *binary) { static void *handle; return &handle; }
struct Properties {
    char name[256], uuid[16], luid[8];
    unsigned mask;
    size_t memory, shared;
    int registers, warp;
    size_t pitch;
    int threads, block[3], grid[3];
    size_t constant;
    int major, minor;
    size_t texture, texture_pitch;
    int multiprocessors;
};
int cudaGetDeviceProperties(struct Properties *p, int device) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "described GPU");
    p->memory = (size_t)80 << 30, p->shared = 49152, p->registers = 65536, p->warp = 32, p->threads = 1024;
    p->block[0] = p->block[1] = 1024, p->block[2] = 64;
    p->grid[0] = 2147483647, p->grid[1] = p->grid[2] = 65535;
    p->major = 9, p->minor = 0, p->multiprocessors = 132;
    return 0;
}
"""


def build_described_cuda(provider: Path, cache: Path) -> Path:
    """Return the folder of the libraries that a provider's library needs. gcc builds them unless they are there.

    Raises UserError if nm, readelf or gcc is missing or fails.
    """
    needed = [line.split("[")[1].rstrip("]") for line in _output("readelf", "-d", provider) if "(NEEDED)" in line]
    libraries = [name for name in needed if name.startswith(("libcu", "libnv"))]
    undefined = [line.split()[-1].partition("@")[0] for line in _output("nm", "-D", "--undefined-only", provider)]
    others = sorted(
        {name for name in undefined if name.startswith(PREFIXES) and f" {name}(" not in _names_of_calls(SOURCE)}
    )
    source = SOURCE + "".join(f"int {name}(void) {{ return 0; }}\n" for name in others)
    folder = cache / f"described-{sha256(repr((source, libraries)).encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    partly = folder.with_name(f"{folder.name}.partial")
    partly.mkdir(parents=True, exist_ok=True)
    (partly / "described.c").write_text(source)
    for library in libraries:
        flags = ("-shared", "-fPIC", "-fno-builtin", "-w", f"-Wl,-soname,{library}")
        _output("gcc", *flags, "-o", partly / library, partly / "described.c")
    partly.rename(folder)
    return folder


def _names_of_calls(source: str) -> str:
    """Return a source in which each function's name follows a space."""
    return source.replace("*", " ")


def _output(*command: str | Path) -> list[str]:
    """Return the lines that a program prints. Raises UserError if it is missing or fails."""
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not installed", "install gcc and binutils") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"{command[0]} failed: {error.stderr.strip()[:300]}", "read what it says") from error
    return done.stdout.splitlines()
