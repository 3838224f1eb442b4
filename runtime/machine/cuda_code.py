"""Read from the file of an installed CUDA library for which GPU architectures it contains code.

The CUDA compiler stores code in a library as "fat binaries": a header with a magic number, then one entry for each
architecture. NVIDIA does not document the format; the fields read here are those of `fatbinary_section.h` and of
cuobjdump's output. Nothing is loaded, so no GPU is needed.
"""

import mmap
import re
import struct
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import msgspec

MAGIC = struct.pack("<I", 0xBA55ED50)
HEADER, ENTRY = struct.Struct("<IHHQ"), struct.Struct("<HHIQ")  # magic, version, size, bytes; kind, -, size, bytes
HEADER_SIZE = 16  # bytes, in version 1
SM_OFFSET = 28  # offset of the architecture in an entry
PTX, MACHINE = 1, 2  # kinds of entries: text that the driver compiles, and machine code
TEGRA = frozenset({53, 62, 72, 87, 101, 110})  # Jetson and Drive, whose machine code runs on no other GPU
LIBRARIES = {  # the files with an engine's kernels
    "onnxruntime": r"onnxruntime_providers_cuda",
    "tensorrt": r"nvinfer(_lean|_builder_resource\w*)?",
    "tensorrt-rtx": r"tensorrt_rtx",
}
SYSTEM = (  # where the TensorRT of JetPack, of Debian and of jetson-containers is
    *("/usr/lib/aarch64-linux-gnu", "/usr/lib/x86_64-linux-gnu"),
    "/usr/local/cuda/targets/aarch64-linux/lib",
)


def is_library(engine: str, name: str) -> bool:
    """Return whether a file name is that of a library with the engine's kernels, on Linux or Windows."""
    stem = LIBRARIES[engine]
    return re.fullmatch(rf"lib{stem}\.so[.\d]*|{stem}(_\d+)*\.dll", name) is not None


class CudaCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The GPU architectures for which an engine's libraries contain code, such as 87 for sm87. `machine` are those of
    machine code; `ptx` are those of code that a driver can compile for later architectures. Both are empty if no code
    was found."""

    engine: str
    files: tuple[str, ...]
    machine: tuple[int, ...]
    ptx: tuple[int, ...]

    @property
    def is_found(self) -> bool:
        return bool(self.machine or self.ptx)

    def runs_on(self, sm: int) -> bool:
        """Return whether a GPU of architecture `sm` can run the code.

        Machine code runs on later GPUs of the same major version. The exception is Jetson, where machine code runs only
        on the architecture for which it was made. PTX runs on its architecture and all later ones. (CUDA C++
        Programming Guide, "Binary Compatibility" and "PTX Compatibility".)
        """
        if sm in self.machine or any(architecture <= sm for architecture in self.ptx):
            return True
        return sm not in TEGRA and any(
            architecture // 10 == sm // 10 and architecture <= sm
            for architecture in self.machine
            if architecture not in TEGRA
        )


def cuda_code_of_engines() -> tuple[CudaCode, ...]:
    """Return, for each installed engine with CUDA libraries, the GPU architectures for which they contain code."""
    found = ((engine, sorted(set(_libraries(engine)))) for engine in LIBRARIES)
    return tuple(read_cuda_code(engine, files) for engine, files in found if files)


def read_cuda_code(engine: str, files: Iterable[Path]) -> CudaCode:
    """Return the GPU architectures for which the libraries of one engine contain code. A file that cannot be read
    counts as one without code."""
    names, entries = [], set[tuple[int, int]]()
    for file in files:
        names.append(file.name)
        entries |= _read_entries(file)
    machine, ptx = (tuple(sorted(sm for each, sm in entries if each == kind)) for kind in (MACHINE, PTX))
    return CudaCode(engine, tuple(names), machine, ptx)


def _libraries(engine: str) -> Iterator[Path]:
    """Yield the libraries of an engine, of installed packages and of the system."""
    for package in metadata.distributions():
        if (package.metadata["Name"] or "").lower().replace("_", "-").startswith(engine.partition("-")[0]):
            for file in package.files or ():
                if is_library(engine, file.name) and (path := Path(str(package.locate_file(file)))).is_file():
                    yield path.resolve()
    for folder in map(Path, SYSTEM):
        for path in folder.glob("libnvinfer*.so*") if engine == "tensorrt" else ():
            if is_library(engine, path.name) and path.is_file():
                yield path.resolve()


def _read_entries(file: Path) -> set[tuple[int, int]]:
    """Return (kind, architecture) of all GPU code in a file; empty if it cannot be read."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return set(_entries(content))
    except (OSError, ValueError):  # not readable, or empty
        return set()


def _entries(content: mmap.mmap) -> Iterator[tuple[int, int]]:
    start = content.find(MAGIC)
    while start >= 0:
        after = start + len(MAGIC)
        if start + HEADER.size <= len(content):
            _, version, header, size = HEADER.unpack_from(content, start)
            end = start + header + size
            if version == 1 and header == HEADER_SIZE and end <= len(content):  # else other data
                yield from _entries_between(content, start + header, end)
                after = end
        start = content.find(MAGIC, after)


def _entries_between(content: mmap.mmap, place: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (kind, architecture) of each entry of the fat binary between two offsets. Stop at an entry of unknown
    layout."""
    while place + SM_OFFSET + 4 <= end:
        kind, _, header, size = ENTRY.unpack_from(content, place)
        if kind in (PTX, MACHINE):
            yield kind, struct.unpack_from("<I", content, place + SM_OFFSET)[0]
        if header < ENTRY.size:  # a layout that is not known
            return
        place += header + size
