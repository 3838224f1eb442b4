"""A kill at any write of export leaves a bundle that is whole: the old one or the new."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.export.networks import large_denoiser

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
folder = Path(sys.argv[2])

from fewstep.export import load_and_trace, trace
from fewstep.export.verification import verify
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.files import io
from tests.kill_at_writes import outcomes

source = folder / "denoiser.py"
made = {}  # torch and onnxruntime have threads, which a fork would lose: they work once, before

def once(module, name):
    function = getattr(module, name)
    def call(*arguments):
        if name not in made:
            made[name] = function(*arguments)
        return made[name]
    setattr(module, name, call)

once(trace, "trace")
once(load_and_trace, "record_reference")
once(verify, "compare")
once(load_and_trace, "prepare")
for limit in sys.argv[3:]:
    io.EXTERNAL_ABOVE = int(limit)
    options = ExportOptions(f"{source}:make", folder / limit)
    export(options)
    source.write_text(source.read_text() + "# changed, and so is what the manifest says of it\\n")
    seen = outcomes(options.output, lambda: export(options))
    assert seen == sorted(seen, reverse=True), seen
    print(seen.count(True), seen.count(False))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_kill_at_any_write_leaves_a_whole_bundle(tmp_path: Path) -> None:
    """With its weights inside its graphs, and in a file next to them."""
    shutil.copy(large_denoiser.__file__, tmp_path / "denoiser.py")
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT), str(tmp_path), str(2**28), "0"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert not list((tmp_path / str(2**28)).glob("graphs/*.data")) and list((tmp_path / "0").glob("graphs/*.data"))
    small, large = (tuple(map(int, line.split())) for line in process.stdout.splitlines()[-2:])
    assert small[0] > 4 and large[0] > 6  # kills that left the old one
    assert small[1] > 0 and large[1] > 0  # and the new one
