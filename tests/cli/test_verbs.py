"""The example of docs/export.md goes through every verb, as a user would run it."""

import io
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from PIL import Image

from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli import demo_options
from fewstep.cli.demo_options import DemoOptions
from fewstep.cli.main import main
from fewstep.measure.results import decode as decode_results
from fewstep.report.options import ReportOptions
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import Progress
from tests.cli.conftest import Command, Document
from tests.refusals import assert_refusal
from tests.runtime.sampling.test_fitted_plans import give

EXAMPLE = Path(__file__).parent.parent.parent / "docs/export.md"
SHORT_REPORT = (
    "--seeds 4 --forced-seeds 2 --teacher ddim:10 --teacher-seeds 2 --simulated-seeds 2 --batches 1 --rounds 1 "
    "--turn-seconds 0.01"
)


def said(*arguments: object) -> str:
    """Run a command in this process, since importing torch again would take longer than most of them, and return its
    output.
    """
    with redirect_stdout(io.StringIO()) as printed:
        assert main([*map(str, arguments)]) == 0
    return printed.getvalue()


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
    assert "verified against torch at" in said("export", source, "-o", bundle)
    printed = said("calibrate", bundle, "--plan", "ddim:4", "--target", "cpu-x86,tensorrt", "--trajectories", 4)
    assert "int8-cpu-x86, " in printed and "int8-tensorrt, " in printed and "% of the body's MACs in int8" in printed
    return bundle


def test_a_module_that_cannot_be_traced_is_one_line(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    branching = (
        Path(source.partition(":")[0]).read_text().replace("return self.last(", "return x if h.sum() > 0 else (")
    )
    (tmp_path / "branching.py").write_text(branching)
    monkeypatch.chdir(tmp_path)
    assert main(["export", "branching.py:make", "-o", "bundle"]) == 1
    printed, messages = capfd.readouterr()
    assert printed == "" and len(messages.splitlines()) == 1, messages
    assert "Denoiser cannot be exported" in messages and "branching.py:" in messages
    assert not (tmp_path / "bundle" / "manifest.json").exists()


def test_run_samples_both_precisions(bundle: Path, tmp_path: Path) -> None:
    for precision in ("float32", "int8"):
        picture = tmp_path / f"{precision}.png"
        said("run", bundle, "--precision", precision, "-n", 4, "-c", "class=star", "-o", picture)
        assert Image.open(picture).size == (3 * 17, 3 * 17)


@pytest.mark.slow
def test_report_prints_what_it_wrote(bundle: Path) -> None:
    printed = said("report", bundle, *SHORT_REPORT.split())
    opened = open_bundle(bundle)
    assert opened.manifest.results is not None
    results = decode_results(opened.read(opened.manifest.results))
    assert (bundle / "report/index.html").is_file()
    for quality in results.qualities:
        assert quality.body in printed and f"{quality.against_float.mean:.1f}" in printed
    assert "…" not in printed


def test_measure_prints_what_it_stored(bundle: Path) -> None:
    printed = said(
        "measure", bundle, "--columns", "psnr,fd", "--seeds", 4, "--teacher", "ddim:10", "--teacher-seeds", 2
    )
    opened = open_bundle(bundle)
    assert opened.manifest.evaluation is not None
    results = decode_results(opened.read(opened.manifest.evaluation))
    assert [quality.body for quality in results.qualities] == ["int8-cpu-x86"] and results.features is None
    assert f"{results.qualities[0].against_float.mean:.1f}" in printed and "4 seeds" in printed
    assert "…" not in printed


def test_the_bundle_names_no_place_on_this_machine(bundle: Path) -> None:
    for path in bundle.rglob("*"):
        if path.is_file():
            assert str(bundle.parent).encode() not in path.read_bytes(), path


def test_inspect_says_what_runs_in_which_type_and_why(bundle: Path, document: Document) -> None:
    found = document("inspect", bundle)
    body = found["bodies"]["int8-cpu-x86"]
    int8, rest = body["shares"]
    assert (int8["type"], int8["operations"]) == ("int8", 1)
    assert len(found["manifest"]["bodies"]["int8-cpu-x86"]["groups"]) == 3  # edges of four groups
    assert rest["type"] == "float32" and sum(rest["reasons"].values()) == rest["operations"] == 2
    assert "QLinearConv" in body["graph"]["optimized"]
    assert [share["type"] for share in found["bodies"]["int8-tensorrt"]["shares"]] == ["int8", "float16"]
    assert found["bodies"]["int8-tensorrt"]["graph"]["optimized"] is None
    assert "4 evaluations, 8 branches" in found["plans"]["ddim:4@arctan"] and found["ranges"][0]["groups"] == 4
    stages = {each["stage"]: each for each in found["verified"]}
    assert list(stages) == ["exported", "prepared", "float16"]
    assert stages["prepared"]["points"] == 9 and stages["prepared"]["relative"] < 1e-5 < stages["float16"]["relative"]
    assert found["bodies"]["float32"]["graph"]["engine"] == "TensorRT 10.0"
    assert {each["reason"] for each in found["bodies"]["float32"]["multiplying"]} == {""}
    assert body["graph"]["engine"] is None and "QLinearConv" not in body["graph"]["fused"]
    assert found["bytes"] == sum(found["files"].values()) + (bundle / "manifest.json").stat().st_size
    printed = " ".join(re.sub("[│├└─]", " ", said("inspect", bundle, "--operations")).split())
    for expected in ("body int8-cpu-x86", "middle", "fewer than 16 channels", "fewstep calibrate BUNDLE --plan ddim:4"):
        assert expected in printed, expected


def test_inspect_names_a_file_that_is_missing_and_shows_the_rest(
    bundle: Path, tmp_path: Path, document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    whole, there = document("inspect", bundle), tmp_path / "bundle"
    shutil.copytree(bundle, there)
    manifest = open_bundle(there).manifest
    gone = [name for name in manifest.files if name.startswith(("report/verification", "ranges/", "plans/"))]
    for name in gone:
        (there / name).unlink()
    found = document("inspect", there)
    assert len(gone) >= 3 and sorted(found["unreadable"]) == sorted(gone)
    assert (found["verified"], found["plans"], found["ranges"]) == ([], {}, [])
    assert found["bodies"]["int8-cpu-x86"]["shares"] == whole["bodies"]["int8-cpu-x86"]["shares"]
    printed = " ".join(re.sub("[│├└─]", " ", said("inspect", there)).split())
    assert f"{there}: file {gone[0]} is missing; " in printed and "body float32" in printed
    (there / manifest.bodies["float32"].graph.file).unlink()
    assert main(["inspect", str(there)]) == 1


def test_a_packed_bundle_can_be_inspected(bundle: Path, tmp_path: Path, document: Document) -> None:
    packed = document("pack", bundle, "-o", tmp_path / "packed", "--body", "int8-cpu-x86")
    assert 1e3 < packed["bytes"] < 1e5  # too little to tell in MB
    messages = said("pack", bundle, "-o", tmp_path / "packed", "--body", "int8-cpu-x86")
    assert f"int8-cpu-x86, {packed['bytes'] / 1e3:.1f} kB" in messages
    found = document("inspect", tmp_path / "packed")
    assert list(found["bodies"]) == ["int8-cpu-x86"]
    assert [share["operations"] for share in found["bodies"]["int8-cpu-x86"]["shares"]] == [1, 2]
    printed = " ".join(re.sub("[│├└─]", " ", said("inspect", tmp_path / "packed", "--operations")).split())
    assert "are not listed: the bundle has no float32 body" in printed
    assert "which the bundle does not have" in printed and "fewstep report" not in printed


@pytest.mark.slow
def test_measure_races_the_bodies_that_run_here(bundle: Path, document: Document) -> None:
    arguments = ("--batches", "1,2", "--rounds", 2, "--turn-seconds", 0.01, "--backend", "onnxruntime", "--no-spinning")
    found = document("measure", bundle, "--columns", "ms", *arguments)
    assert [race["batch"] for race in found["races"]] == [2, 4] and not found["spinning"]  # guided: two rows a sample
    for race in found["races"]:
        assert [each["name"] for each in race["timings"]] == ["float32", "int8-cpu-x86"]
        assert all(0 < each["p10"] <= each["median"] <= each["p99"] for each in race["timings"])
        assert race["timings"][0]["ratio"] == 1


def test_a_dry_run_checks_everything_and_writes_nothing(
    bundle: Path, source: str, tmp_path: Path, document: Document
) -> None:
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    assert document("export", source, "-o", tmp_path / "new", "--dry-run")["x_shape"] == [1, 8, 8]
    assert not (tmp_path / "new").exists()
    would = document("calibrate", bundle, "--plan", "ddim:4", "--trajectories", 16, "--dry-run")
    assert (would["evaluations"], len(would["operations"]), would["about_seconds"] > 0) == (64, 1, True)
    assert document("report", bundle, "--dry-run")["seeds"] == {"int8-cpu-x86": 256, "int8-tensorrt": 32}
    assert "calibrate" in "".join(document("demo", "-o", tmp_path / "demo", "--dry-run")["would"])
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before


def test_the_demo_says_its_time_and_judges_less_unless_asked_for_all(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_options, "measure_slowdown", lambda: 2.0)
    quick, full = (document("demo", "-o", tmp_path / "demo", "--dry-run", *more)["would"] for more in ((), ("--full",)))
    takes, current = "the demo takes about", "at the current speed"
    assert (quick[-2:], full[-2:]) == (
        ["report on 32 held-out seeds", f"{takes} 3 minutes {current}: 100 seconds of processor time"],
        ["report on 256 held-out seeds", f"{takes} 14 minutes {current}: 420 seconds of processor time"],
    )
    assert "tensorrt" in full[1] and "tensorrt" not in quick[1]
    assert (
        DemoOptions("fashion_mnist").report_options.teacher
        and DemoOptions("own.py:make").report_options.teacher is None
    )


def test_the_demo_refuses_before_it_begins(tmp_path: Path, fewstep: Command) -> None:
    demo = ("demo", "-o", tmp_path / "demo")
    for wrong, named in (("--target=cpu", "unknown target 'cpu'"), ("--plan=x:1", "unknown solver 'x'")):
        assert_refusal(fewstep(*demo, wrong, code=1).err.splitlines()[-1], named)
    assert_refusal(
        fewstep(*demo, "--source", "nowhere", "--dry-run", code=1).err.splitlines()[-1], names="'nowhere' is not a file"
    )
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_demo_ends_with_a_table_samples_and_a_report(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it except the length of the report, which its defaults decide."""
    few = {"seeds": 4, "forced_seeds": 2, "teacher": "ddim:10", "teacher_seeds": 2, "batches": (1,), "rounds": 1}

    def quick_report_options(options: DemoOptions) -> ReportOptions:
        return ReportOptions(options.bundle, turn_seconds=0.01, **few)

    monkeypatch.setattr(DemoOptions, "report_options", property(quick_report_options))

    def record_calibration(options: CalibrateOptions, progress: Progress) -> Calibration:
        found = calibrate(options, progress)
        give(
            options.bundle,
            source=open_bundle(options.bundle).manifest.provenance.source_sha256,
            numbers="ddim:3@karras",
        )
        return found

    monkeypatch.setattr("fewstep.cli.demo.calibrate", record_calibration)
    printed = said("demo", "--source", source, "--target", "cpu-x86", "-o", tmp_path / "demo")
    words = ("Good to ship", "Look at it", "Not usable")
    assert any(printed.startswith(f"{word}: int8-cpu-x86 has ") for word in words)  # the verdict comes first
    assert printed.splitlines()[-1].startswith("Next: fewstep ")
    for expected in ("PSNR", "int8-cpu-x86", "samples-int8.png", "report/index.html", "the fitted plan has 24.0 dB"):
        assert expected in printed
    for kind, plan in (("fitted", "ddim:3@karras"), ("nominal", "dpmpp_2m:3")):
        again = tmp_path / f"{kind}.png"
        (classes,) = open_bundle(tmp_path / "demo/bundle").manifest.conditions
        given = [f"--condition=class={label}" for label in classes.labels]
        options = ["-n", "12", "--guidance", "2", "--columns", "3", "-o", again, *given]
        said("run", tmp_path / "demo/bundle", "--plan", plan, *options)
        assert (tmp_path / f"demo/samples-3-{kind}.png").read_bytes() == again.read_bytes()
    assert again.read_bytes() != (tmp_path / "fitted.png").read_bytes()
    assert (tmp_path / "demo/bundle/report/index.html").is_file()
    assert Image.open(tmp_path / "demo/samples-int8.png").size == (3 * (3 * 9 - 1), 3 * (4 * 9 - 1))
