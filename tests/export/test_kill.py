"""A kill at any write of export leaves a bundle that is whole: the old one or the new."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SCRIPT = """
import sys
from pathlib import Path

tests, folder = Path(sys.argv[1]), Path(sys.argv[2])
sys.path[:0] = [str(tests.parent)]

from fewstep.export import trace, verify
from fewstep.export.export import ExportOptions, export
from killing import outcomes

bundle = folder / "bundle"
made = {}  # torch and onnxruntime have threads, which a fork would lose: they work once, before

def once(module, name):
    function = getattr(module, name)
    def call(*arguments):
        if name not in made:
            made[name] = function(*arguments)
        return made[name]
    setattr(module, name, call)

once(trace, "trace")
once(verify, "verify")
once(sys.modules["fewstep.export.export"], "prepare")
export(ExportOptions(str(folder / "denoiser.py") + ":make", bundle))
source = (folder / "denoiser.py").read_text()
(folder / "denoiser.py").write_text(source + "# changed, and so is what the manifest says of it\\n")
seen = outcomes(bundle, lambda: export(ExportOptions(str(folder / "denoiser.py") + ":make", bundle)))
assert seen == sorted(seen, reverse=True), seen
print(seen.count(True), seen.count(False))
"""
DENOISER = """
import torch
from fewstep.export.spec import Spec
from fewstep.runtime.manifest import ScheduleSpec

class Denoiser(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, time):
        return self.conv(x) * (1 + time / 1000)[:, None, None, None]

def make():
    torch.manual_seed(0)
    return Denoiser().eval(), Spec("tiny", (1, 4, 4), (), "v", ScheduleSpec("cosine"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_kill_at_any_write_leaves_a_whole_bundle(tmp_path: Path) -> None:
    (tmp_path / "denoiser.py").write_text(DENOISER)
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(TESTS), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    old, new = map(int, process.stdout.split()[-2:])
    assert old > 4 and new > 0
