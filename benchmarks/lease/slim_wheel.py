"""onnxruntime-gpu with the code of one GPU architecture: 61 MB instead of 255.

Its library has machine code for six architectures (`runtime/machine/cuda_code.py` describes the format). That of the
others is removed, and the wheel is compressed with LZMA, which pip reads.
"""

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from fewstep.plans.errors import UserError
from fewstep.runtime.machine.cuda_code import ENTRY, HEADER, HEADER_SIZE, MACHINE, MAGIC, SM_OFFSET

LIBRARY = "libonnxruntime_providers_cuda.so"
# For C programs, and for TensorRT: Python's module has the first inside it.
LEFT_OUT = ("onnxruntime/capi/libonnxruntime.so.", "onnxruntime/capi/libonnxruntime_providers_tensorrt.so")


def slim_wheel(wheel: Path, architecture: int, output: Path) -> Path:
    """Write a wheel of onnxruntime-gpu with code for one architecture, such as 90 for sm90.

    Raises UserError if the wheel has none for it.
    """
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(output, "w", zipfile.ZIP_LZMA) as target:
        for member in source.infolist():
            if member.filename.startswith(LEFT_OUT):
                continue
            content = source.read(member)
            if member.filename.endswith(LIBRARY):
                content = bytes(keep_architecture(bytearray(content), architecture))
            target.writestr(member.filename, content)
    return output


def keep_architecture(library: bytearray, architecture: int) -> bytearray:
    """Remove the machine code of other architectures from a library, whose size and addresses stay."""
    kept = 0
    for start, end in list(_binaries(library)):
        entries = [library[first:last] for first, last in _entries(library, start, end, architecture)]
        kept += len(entries)
        content = b"".join(entries)
        library[start:end] = content + bytes(end - start - len(content))
        struct.pack_into("<Q", library, start - HEADER_SIZE + 8, len(content))  # the size in the header
    if not kept:
        raise UserError(f"the library has no code for sm{architecture}", "choose one that its release notes name")
    return library


def _binaries(library: bytearray) -> Iterator[tuple[int, int]]:
    """Yield the first and the last byte of the entries of each fat binary."""
    start = library.find(MAGIC)
    while start >= 0:
        _, version, header, size = HEADER.unpack_from(library, start)
        end = start + header + size
        is_binary = version == 1 and header == HEADER_SIZE and end <= len(library)
        if is_binary:
            yield start + header, end
        start = library.find(MAGIC, end if is_binary else start + len(MAGIC))


def _entries(library: bytearray, start: int, end: int, architecture: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last byte of each entry with machine code of an architecture."""
    while start < end:
        kind, _, header, size = ENTRY.unpack_from(library, start)
        (found,) = struct.unpack_from("<I", library, start + SM_OFFSET)
        if kind == MACHINE and found == architecture:
            yield start, start + header + size
        start += header + size
