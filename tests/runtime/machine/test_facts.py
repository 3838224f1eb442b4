"""Facts of this machine, or of a container if that has less: memory, cores, GPUs, packages."""

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fewstep.runtime.machine.cpu import this_cpu, usable_cores
from fewstep.runtime.machine.gpu import Gpu, gpu_of, parse_gpus, parse_jetson
from fewstep.runtime.machine.memory import STATUS, parse_meminfo, peak_bytes, resident_bytes
from fewstep.runtime.machine.memory_pages import drop_pages, release_free_memory
from fewstep.runtime.machine.packages import EXTRAS, missing_packages
from tests.packages import toml


def test_a_container_limits_memory() -> None:
    meminfo = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"
    assert parse_meminfo(meminfo, "max", "5") == (16_384_000_000, 8_192_000_000)
    assert parse_meminfo(meminfo, "1000000000", "400000000") == (1_000_000_000, 600_000_000)
    assert parse_meminfo("", "", "") == (None, None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells what is mapped")
def test_ulimit_limits_memory() -> None:
    limit = 2 * 10**9
    code = (
        "import resource; from pathlib import Path; from fewstep.runtime.machine.memory import this_space\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit})); here = Path()\n"
        "space = this_space(here, here); print(space.memory_total, space.memory_free)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    total, free = map(int, said.split())
    assert total == limit and 0 < free < limit - 10**7  # Python itself takes more


def test_a_process_knows_its_peak() -> None:
    assert peak_bytes("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\n") == 2048 * 1024
    assert peak_bytes("") is None
    before = peak_bytes()
    assert before is None or 2**20 < before <= (peak_bytes() or 0)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_what_was_freed_below_something_held_is_given_back() -> None:
    freed = [bytearray(b"1" * 60_000) for _ in range(1000)]
    above = bytearray(b"1" * 60_000)
    del freed
    before = resident_bytes()
    release_free_memory()
    assert resident_bytes() < before - 40_000_000 and above


FREED = """
import ctypes, sys
from fewstep.runtime.machine.memory import resident_bytes
from fewstep.runtime.machine.memory_pages import return_large_blocks
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
def block():
    place = ctypes.c_void_p(c.malloc(ctypes.c_size_t(20 << 20)))
    ctypes.memset(place, 1, 20 << 20)
    return place
c.free(block())  # blocks of this size then come from the heap
def freed():
    below, above = block(), block()
    before = resident_bytes()
    c.free(below)
    return before - resident_bytes()
with return_large_blocks(is_short=sys.argv[1] == "short"):
    inside = freed()
print(inside, freed())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
@pytest.mark.parametrize(("memory", "returned"), [("short", 20 << 20), ("enough", 0)])
def test_a_large_block_below_another_is_given_back_while_memory_is_short(memory: str, returned: int) -> None:
    done = subprocess.run([sys.executable, "-c", FREED, memory], capture_output=True, text=True, check=True)
    inside, after = map(int, done.stdout.split())
    assert abs(inside - returned) < 1 << 20 and abs(after) < 1 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells what is resident")
def test_pages_of_a_file_are_dropped_and_read_again(tmp_path: Path) -> None:
    content = np.resize(np.arange(251, dtype=np.uint8), 2**22)
    content.tofile(tmp_path / "file")
    mapped = np.memmap(tmp_path / "file", np.uint8, mode="r")

    def resident() -> int:
        found = re.search(r"^RssFile:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
        assert found
        return 1024 * int(found[1])

    assert mapped.sum() == content.sum()
    before = resident()
    drop_pages(mapped.ctypes.data + 1, mapped.nbytes - 1)
    assert resident() < before - 2**21
    np.testing.assert_array_equal(mapped, content)
    drop_pages(mapped.ctypes.data + 1, 5)  # no page lies within


def test_this_processor_is_read() -> None:
    assert this_cpu().architecture
    assert this_cpu().cores == usable_cores() >= 1


def test_what_nvidia_smi_prints_is_read() -> None:
    text = "NVIDIA RTX A4000, 8.6, 550.54, 16376, 15000\nOrin (nvgpu), 8.7, 540.4.0, [N/A], [N/A]\nbroken\n"
    assert parse_gpus(text) == (
        Gpu("NVIDIA RTX A4000", "sm86", "550.54", 16376, 15000),
        Gpu("Orin (nvgpu)", "sm87", "540.4.0", None, None),
    )


def test_what_a_jetson_says_of_itself_is_read() -> None:
    jetson = parse_jetson("NVIDIA Jetson AGX Orin", "# R36 (release), REVISION: 4.3, GCID: 1", "")
    assert (jetson.l4t, jetson.jetpack) == ("36.4.3", "6.x") and "stay on 10.x" in jetson.note
    assert gpu_of(jetson).sm == "sm87" and gpu_of(jetson).cuda == 12
    without = parse_jetson("NVIDIA Jetson AGX Orin", "# R39 (release), REVISION: 2.0, GCID: 1", "")  # JetPack 7.2
    assert (without.l4t, without.jetpack) == ("39.2.0", "7.x")
    assert parse_jetson("Thor", "# R38 (release), REVISION: 2.0, GCID: 1", "7.2.2").jetpack == "7.2.2"


PROJECT = toml(Path(__file__).parents[3] / "pyproject.toml")["project"]


def test_the_extras_are_those_of_the_project() -> None:
    asked = PROJECT["optional-dependencies"]
    for extra, (_, packages) in EXTRAS.items():
        names = {re.split(r"[\s<>=;\[]", requirement)[0] for requirement in asked[extra]}
        assert set(packages) == names, extra
    assert missing_packages({"onnxruntime-gpu": "1.31", "onnx": "1.23", "Pillow": "12"}).get("calibration") is None
