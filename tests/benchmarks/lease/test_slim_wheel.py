"""onnxruntime-gpu with the code of one architecture: all other bytes of the library stay, and the wheel is smaller."""

import struct
import zipfile
from pathlib import Path

from benchmarks.lease.slim_wheel import LIBRARY, keep_architecture, slim_wheel
from fewstep.runtime.machine.cuda_code import ENTRY, HEADER, HEADER_SIZE, MACHINE, MAGIC, PTX, read_cuda_code
from tests.refusals import refuses

HOST = b"host code, in which the numbers of a fat binary may occur: " + MAGIC + b"x" * 40


def entry(kind: int, architecture: int, code: bytes) -> bytes:
    return ENTRY.pack(kind, 0, 32, len(code)) + bytes(12) + struct.pack("<I", architecture) + code


def binary(*entries: bytes) -> bytes:
    content = b"".join(entries)
    return HEADER.pack(struct.unpack("<I", MAGIC)[0], 1, HEADER_SIZE, len(content)) + content


FIRST = binary(entry(MACHINE, 80, b"a" * 64), entry(MACHINE, 90, b"b" * 48), entry(PTX, 90, b"p" * 32))
SECOND = binary(entry(MACHINE, 80, b"c" * 80))
CONTENT = HOST + FIRST + HOST + SECOND + HOST


def test_only_machine_code_of_the_architecture_is_left(tmp_path: Path) -> None:
    library = bytes(keep_architecture(bytearray(CONTENT), 90))
    assert len(library) == len(CONTENT) and library.count(HOST) == 3
    assert library.find(b"b" * 48) > 0 and not any(library.count(each * 32) for each in (b"a", b"c", b"p"))
    (tmp_path / LIBRARY).write_bytes(library)
    found = read_cuda_code("onnxruntime", [tmp_path / LIBRARY])
    assert (found.machine, found.ptx) == ((90,), ())


def test_an_architecture_without_code_is_refused() -> None:
    with refuses("sm87", "choose one"):
        keep_architecture(bytearray(CONTENT), 87)


def test_a_wheel_keeps_its_other_files_except_those_for_c_and_tensorrt(tmp_path: Path) -> None:
    files = {
        f"onnxruntime/capi/{LIBRARY}": CONTENT,
        "onnxruntime/capi/libonnxruntime.so.1.31.1": b"for C",
        "onnxruntime/capi/libonnxruntime_providers_tensorrt.so": b"for TensorRT",
        "onnxruntime/__init__.py": b"import this",
    }
    with zipfile.ZipFile(tmp_path / "big.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    with zipfile.ZipFile(slim_wheel(tmp_path / "big.whl", 90, tmp_path / "slim.whl")) as wheel:
        assert wheel.namelist() == [f"onnxruntime/capi/{LIBRARY}", "onnxruntime/__init__.py"]
        assert wheel.read("onnxruntime/__init__.py") == b"import this"
        assert wheel.read(f"onnxruntime/capi/{LIBRARY}") == keep_architecture(bytearray(CONTENT), 90)
