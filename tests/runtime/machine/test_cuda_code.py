"""The architectures of the code in a CUDA library, read from bytes in the CUDA compiler's format."""

import struct
from pathlib import Path

import pytest

from fewstep.runtime.machine.cuda_code import MACHINE, PTX, CudaCode, is_library, read_cuda_code


def fat_binary(*entries: tuple[int, int]) -> bytes:
    """Return a fat binary with an entry of each kind and architecture, with a few bytes of code."""
    body = b""
    for kind, sm in entries:
        code = bytes(40 + sm)
        body += struct.pack("<HHIQ", kind, 0x101, 64, len(code)) + struct.pack("<QII", 0, 0, sm).ljust(48, b"\0") + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def read(tmp_path: Path, content: bytes) -> CudaCode:
    file = tmp_path / "libonnxruntime_providers_cuda.so"
    file.write_bytes(content)
    return read_cuda_code("onnxruntime", [file])


def test_the_architectures_of_all_fat_binaries_are_read(tmp_path: Path) -> None:
    content = b"\x7fELF" + bytes(100) + fat_binary((MACHINE, 80), (MACHINE, 90)) + bytes(7) + fat_binary((MACHINE, 121))
    assert read(tmp_path, content).machine == (80, 90, 121)


def test_ptx_is_distinguished_from_machine_code(tmp_path: Path) -> None:
    code = read(tmp_path, fat_binary((MACHINE, 80), (PTX, 90)))
    assert (code.machine, code.ptx) == ((80,), (90,))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(100),
        struct.pack("<I", 0xBA55ED50),
        struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 2**40) + bytes(100),
        struct.pack("<IHHQ", 0xBA55ED50, 7, 16, 64) + bytes(100),
        fat_binary((MACHINE, 80))[:40],
    ],
    ids=["empty", "no magic number", "cut off", "beyond the file", "another version", "half an entry"],
)
def test_other_bytes_are_no_code(tmp_path: Path, content: bytes) -> None:
    assert not read(tmp_path, content).is_found


def test_a_missing_file_has_no_code(tmp_path: Path) -> None:
    assert not read_cuda_code("tensorrt", [tmp_path / "libnvinfer.so.10"]).is_found


@pytest.mark.parametrize(
    ("machine", "ptx", "sm", "runs"),
    [
        ((80,), (), 80, True),
        ((80,), (), 86, True),  # the same major version, later
        ((89,), (), 86, False),  # earlier
        ((80,), (), 90, False),  # another major version
        ((80, 86), (), 87, False),  # Orin runs no machine code of other GPUs
        ((87,), (), 87, True),
        ((87,), (), 89, False),  # and its code runs on no other GPU
        ((100,), (), 103, True),
        ((100,), (), 110, False),  # Thor
        ((), (80,), 90, True),  # compiled by the driver
        ((), (80,), 87, True),
        ((), (90,), 87, False),
    ],
)
def test_which_gpus_run_it(machine: tuple[int, ...], ptx: tuple[int, ...], sm: int, runs: bool) -> None:
    assert CudaCode("onnxruntime", (), machine, ptx).runs_on(sm) is runs


@pytest.mark.parametrize(
    ("engine", "name", "is_one"),
    [
        ("onnxruntime", "libonnxruntime_providers_cuda.so", True),
        ("onnxruntime", "onnxruntime_providers_cuda.dll", True),
        ("onnxruntime", "libonnxruntime_providers_tensorrt.so", False),
        ("tensorrt", "libnvinfer.so.10.3.0", True),
        ("tensorrt", "libnvinfer_lean.so.11", True),
        ("tensorrt", "libnvinfer_builder_resource_sm87.so.10.8.0", True),
        ("tensorrt", "libnvinfer_plugin.so.10", False),
        ("tensorrt", "nvinfer_11.dll", True),
        ("tensorrt-rtx", "libtensorrt_rtx.so.1", True),
        ("tensorrt", "libtensorrt_rtx.so.1", False),
        ("tensorrt-rtx", "tensorrt_rtx.so", False),  # the Python module, which has no kernels
    ],
)
def test_the_libraries_with_kernels_are_known_by_name(engine: str, name: str, is_one: bool) -> None:
    assert is_library(engine, name) is is_one
