"""The age of measured pages beside the code that they judge: .ci/check_measured.py."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECK = runpy.run_path(str(ROOT / ".ci/check_measured.py"))


def test_pages_have_their_scripts_and_the_rooms_that_these_import() -> None:
    scripts = dict(CHECK["scripts"]())
    assert {"zoo.md", "policy.md", "fitting.md"} < scripts.keys() and all(map(Path.is_file, scripts.values()))
    assert CHECK["rooms"](ROOT / "benchmarks/ablation.py", set()) == {"calibration", "lowering", "ranges"}
    assert CHECK["FIGURE"].fullmatch("| `dit_flow` | 46.6 |") and not CHECK["FIGURE"].fullmatch("| model | dB |")
