"""A kill at any write of calibrate or build leaves a bundle that is whole: the old one or the new."""

import subprocess
import sys
from pathlib import Path

import pytest

KILLED = """
import os, sys
from pathlib import Path

sys.path.insert(0, str(Path(sys.argv[1]).parent))
verb, folder = sys.argv[2], Path(sys.argv[3])

from fewstep.calibration import build as builder
from fewstep.calibration.build import BuildOptions, build
from fewstep.calibration.calibrate import calibrate
from fewstep.runtime.bundle import named_files, open_bundle
from test_calibrate import FIRST, denoiser, write_bundle
from dataclasses import replace

bundle = write_bundle(folder / "bundle", denoiser())
builder.WORKER = folder / "worker.py"
builder.WORKER.write_text("import sys, shutil; shutil.copy(sys.argv[3], sys.argv[2])")
builder._backend_version = lambda options: "1.0"

def run():
    if verb == "calibrate":
        calibrate(replace(FIRST, bundle=bundle))
    else:
        build(BuildOptions(bundle, device=("sm86", "sm89"), precision="float16"))

def dying(function, fatal):
    def call(*arguments, **options):
        global count
        count += 1
        if count == fatal:
            os._exit(9)
        return function(*arguments, **options)
    return call

old = open_bundle(bundle).manifest
seen = []
for fatal in range(1, 1000):
    child = os.fork()  # nothing has opened onnxruntime before: its threads would not survive
    if child == 0:
        count = 0
        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, dying(getattr(os, name), fatal))
        run()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = open_bundle(bundle)
    for name in named_files(found.manifest):
        found.file(name)  # its hash too
    seen.append(found.manifest == old)
    if status != 9:
        break
assert status == 0 and seen == sorted(seen, reverse=True), (status, seen)
print(seen.count(True), seen.count(False))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("verb", ["calibrate", "build"])
def test_a_kill_at_any_write_leaves_a_whole_bundle(tmp_path: Path, verb: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", KILLED, __file__, verb, str(tmp_path)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    old, new = map(int, process.stdout.split()[-2:])
    assert old > 8 and new > 0  # it did die at many points
