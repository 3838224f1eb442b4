"""The threads and heaps of a command, unless the user sets others."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

PRODUCT = """
import sys
from pathlib import Path
from fewstep.cli.main import main

main(["--version"])
import numpy

if not any("openblas" in str(own).lower() for own in numpy.show_config(mode="dicts")["Build Dependencies"].values()):
    sys.exit("no OpenBLAS")
numpy.ones((500, 500)) @ numpy.ones((500, 500))
print(len(list(Path("/proc/self/task").iterdir())))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads threads from /proc")
@pytest.mark.parametrize(("asked", "threads"), [({}, "1"), ({"OPENBLAS_NUM_THREADS": "2"}, "2")])
def test_a_product_takes_one_thread(asked: dict[str, str], threads: str) -> None:
    others = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", PRODUCT]
    done = subprocess.run(command, env=others | asked, capture_output=True, text=True)
    if done.stderr == "no OpenBLAS\n":
        pytest.skip("numpy has no OpenBLAS")
    assert done.stdout.split()[-1:] == [threads], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_waiting_threads_of_torch_sleep(asked: dict[str, str], policy: str) -> None:
    """OpenMP prints what it read when it is loaded."""
    pytest.importorskip("torch")
    show = 'from fewstep.cli.main import main; main(["--version"]); import torch'
    variables = os.environ | {"OMP_DISPLAY_ENV": "TRUE"} | asked
    done = subprocess.run([sys.executable, "-c", show], env=variables, capture_output=True, text=True, check=True)
    assert re.findall(r"OMP_WAIT_POLICY *= *'(\w+)'", done.stderr) == [policy], done.stderr


HEAPS = """
import ctypes, sys, threading
from fewstep.cli.malloc_arenas import use_one_heap
if sys.argv[1] == "one":
    use_one_heap()
c = ctypes.CDLL(None)
c.malloc.restype = c.fopen.restype = ctypes.c_void_p
together = threading.Barrier(4)

def allocate():
    together.wait()
    c.malloc(ctypes.c_size_t(1000))
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(c.fopen(b"/dev/stdout", b"w"))
c.malloc_info(0, file)
c.fflush(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_threads_share_one_heap_once_it_is_set() -> None:
    others = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD")
    untold = {name: value for name, value in os.environ.items() if name not in others}

    def heaps(variables: str) -> int:
        shown = subprocess.run(
            [sys.executable, "-c", HEAPS, variables], env=untold, capture_output=True, text=True, check=True
        )
        return shown.stdout.count("<heap nr=")

    assert heaps("one") == 1
    assert heaps("as they are") > 1
