"""A kill at any write of calibrate or build leaves a bundle that is whole: the old one or the new."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, sys.argv[1])
verb, folder = sys.argv[2], Path(sys.argv[3])

from fewstep.graph.engines import build_engine
from fewstep.graph.engines.build import BuildOptions, build
from fewstep.graph.engines.builders import EngineBuilder
from fewstep.calibration.calibrate import calibrate
from tests.kill_at_writes import outcomes
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle

bundle = write_bundle(folder / "bundle", denoiser())
build_engine.WORKER = folder / "worker.py"
build_engine.WORKER.write_text("import sys, shutil; shutil.copy(sys.argv[3], sys.argv[2])")
EngineBuilder.version = lambda self: "1.0"
verbs = {
    "calibrate": lambda: calibrate(replace(FIRST, bundle=bundle)),
    "build": lambda: build(BuildOptions(bundle, device=("sm86", "sm89"), precision="float16")),
}
seen = outcomes(bundle, verbs[verb])
assert seen == sorted(seen, reverse=True), seen
print(seen.count(True), seen.count(False))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("verb", ["calibrate", "build"])
def test_a_kill_at_any_write_leaves_a_whole_bundle(tmp_path: Path, verb: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT), verb, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    old, new = map(int, process.stdout.split()[-2:])
    assert old > 8 and new > 0  # it did die at many points
