"""The example of docs/export.md goes through every verb, as a user would take it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fewstep.calibration.results import Results
from fewstep.calibration.results import decode as decode_results
from fewstep.cli.main import main
from fewstep.runtime import load
from fewstep.runtime.bundle import open_bundle

EXAMPLE = Path(__file__).parent.parent.parent / "docs/export.md"
SHORT_REPORT = (
    "--seeds 4 --forced-seeds 2 --teacher ddim:10 --teacher-seeds 2 --simulated-seeds 2 --batches 1 --rounds 1"
)


def fewstep(*arguments: object) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "fewstep.cli", *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """FILE.py:FUNCTION of the example."""
    file = tmp_path_factory.mktemp("source") / "shapes.py"
    example = re.search(r"```python\n(.*?)```", EXAMPLE.read_text(), re.DOTALL)
    assert example is not None
    file.write_text(example[1])
    return f"{file}:make"


@pytest.fixture(scope="module")
def bundle(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported and calibrated."""
    bundle = tmp_path_factory.mktemp("verbs") / "bundle"
    assert "verified against torch at" in fewstep("export", source, "-o", bundle)
    printed = fewstep("calibrate", bundle, "--plan", "ddim:4", "--trajectories", 4)
    assert "int8-cpu-x86, " in printed and "int8-tensorrt, " in printed and "% of MACs in int8" in printed
    return bundle


def test_a_module_that_cannot_be_traced_is_one_line(source: str, tmp_path: Path) -> None:
    branching = (
        Path(source.partition(":")[0]).read_text().replace("return self.last(", "return x if h.sum() > 0 else (")
    )
    (tmp_path / "branching.py").write_text(branching)
    command = [sys.executable, "-m", "fewstep.cli", "export", "branching.py:make", "-o", "bundle"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "Denoiser cannot be exported" in done.stderr and "branching.py:" in done.stderr
    assert not (tmp_path / "bundle" / "manifest.json").exists()


def test_run_samples_both_precisions(bundle: Path, tmp_path: Path) -> None:
    for precision in ("float32", "int8"):
        picture = tmp_path / f"{precision}.png"
        assert (
            main(["run", str(bundle), "--precision", precision, "-n", "4", "-c", "class=star", "-o", str(picture)]) == 0
        )
        assert Image.open(picture).size == (3 * 17, 3 * 17)


def test_report_prints_what_it_wrote(bundle: Path) -> None:
    printed = fewstep("report", bundle, *SHORT_REPORT.split())
    opened = open_bundle(bundle)
    assert opened.manifest.results is not None
    results: Results = decode_results(opened.read(opened.manifest.results))
    assert (bundle / "report/index.html").is_file()
    for quality in results.qualities:
        assert quality.body in printed and f"{quality.against_float.mean:.1f}" in printed
    assert all(len(line) <= 80 for line in printed.splitlines()[:-1])


def test_the_bundle_names_no_place_on_this_machine(bundle: Path) -> None:
    for path in bundle.rglob("*"):
        if path.is_file():
            assert str(bundle.parent).encode() not in path.read_bytes(), path


def test_guidance_and_labels_work_in_a_program(bundle: Path) -> None:
    with load(bundle, precision="int8") as sampler:
        x = sampler.sample(plan="ddim:4", seeds=[0, 1], condition={"class": ["star", 0]}, guidance=2.0)
    assert x.shape == (2, 1, 8, 8)


def test_the_demo_ends_with_a_table_samples_and_a_report(source: str, tmp_path: Path) -> None:
    printed = fewstep("demo", "--source", source, "--target", "cpu-x86", "-o", tmp_path / "demo")
    for expected in ("PSNR", "int8-cpu-x86", "samples-int8.png", "report/index.html"):
        assert expected in printed
    assert (tmp_path / "demo/bundle/report/index.html").is_file()
    assert Image.open(tmp_path / "demo/samples-int8.png").size == (3 * (3 * 9 - 1), 3 * (4 * 9 - 1))
