"""A command keeps numpy's products to the thread that asks for them, unless its user says otherwise."""

import os
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
