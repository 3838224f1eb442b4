"""compare.py: the members of a comparison, and one comparison from end to end."""

import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.quantization import compare, judge_bodies, result_rows
from benchmarks.quantization.contenders import TOOLS, Contender, contenders
from benchmarks.quantization.judge_bodies import Judge, Quality, constant_image
from benchmarks.quantization.result_rows import Measured
from benchmarks.quantization.tool_inputs import Material
from benchmarks.result_store import read_rows
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from tests.calibration.test_calibrate import denoiser, write_bundle


def test_ours_is_first_on_each_engine_of_the_tools_that_are_there() -> None:
    lines = contenders(TOOLS)
    assert [line.engine for line in lines if line.tool is None] == ["onnxruntime", "openvino", "tensorrt"]
    assert [line.body for line in lines[:3]] == ["int8-cpu-x86", "ort_static-defaults", "ort_static-outer"]
    assert len({line.body for line in lines}) == len(lines) == 3 + sum(len(tool.settings) for tool in TOOLS.values())
    assert {line.engine for line in contenders(["ort_static"])} == {"onnxruntime"}
    assert [line.name for line in contenders(TOOLS, ["=nncf_ptq-tuned"])] == ["fewstep", "NNCF, tuned"]
    tuned = ["fewstep", "NNCF, tuned", "NNCF, tuned-minmax", "NNCF, tuned-transformer"]
    assert [line.name for line in contenders(TOOLS, ["nncf_ptq-tuned"])] == tuned


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: contenders(["ort_static", "other"]), "there is no tool 'other'"),
    (lambda: contenders(TOOLS, ["median"]), "no setting has median"),
    (lambda: compare.environments(["nncf_ptq"]), "--python nncf_ptq"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_a_tool_or_a_setting_that_there_is_not_is_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--seeds", "0"], "argument --seeds: 0 is less than 1"),
        (["--first-seed", "-5"], "seeds -5 to 58 are not held out; choose from 0 to "),
        (["--first-seed", "99937"], "seeds 99937 to 100000 are not held out"),
    ],
)
def test_seeds_that_judge_nothing_are_refused_before_anything_runs(
    given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        compare.main(given)
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_python_is_found_from_where_the_command_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nncf/bin").mkdir(parents=True)
    (tmp_path / "nncf/bin/python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    assert compare.environments(["nncf_ptq=nncf/bin/python"])["nncf_ptq"] == str(tmp_path / "nncf/bin/python")
    assert compare.environments(["nncf_ptq=sh"])["nncf_ptq"].endswith("/sh")


def test_the_constant_image_of_errors_is_counted_beyond_chance() -> None:
    unlike = np.random.default_rng(0).normal(size=(16, 1, 64, 64))
    image = np.resize([1.0, -1.0], (1, 64, 64))
    assert np.square(unlike.mean(axis=0)).mean() / np.square(unlike).mean() == pytest.approx(1 / 16, rel=0.05)
    assert constant_image(unlike) == pytest.approx(0, abs=0.003)
    assert constant_image(unlike + image) == pytest.approx(0.5, abs=0.01)
    assert constant_image(unlike[:1]) == 1 and constant_image(np.zeros((4, 2))) == 0


class Small:
    """A member that exports at once: the bundle of the calibration tests."""

    name, plan, guidance, steps = "dit_flow", "ddim:8", 2.0, 3
    own = False

    def along(self, steps: int) -> str:
        return f"ddim:{steps}"

    def rows(self, count: int, seed: int) -> dict[str, Any] | None:
        return {"class": np.arange(seed, seed + count) % 2} if self.own else None


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Measured]]:
    """Run the command on `Small` and return the rows that it keeps."""

    def export_member(member: Small, work: Path, *settings: object) -> Path:
        folder = work / sha256(repr(settings).encode()).hexdigest()[:12]
        return folder if folder.exists() else write_bundle(folder, denoiser())

    (tmp_path / "lab/measured").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    for page in ("lab/measured/zoo.md", "lab/measured/other_tools.md", "docs/measured.md"):
        (tmp_path / page).write_text(
            f"<!-- made by {result_rows.SCRIPT} -->\n<!-- end of what {result_rows.SCRIPT} makes -->"
        )
    monkeypatch.setattr(compare, "exported", export_member)
    monkeypatch.setattr(compare, "TRAJECTORIES", 4)
    monkeypatch.setattr(compare, "ALL", (Small(),))
    monkeypatch.setattr(result_rows, "KEPT", tmp_path / "zoo.json")
    monkeypatch.setattr(result_rows, "ROOT", tmp_path)

    def ran(*given: str) -> list[Measured]:
        short = ("--model", "dit_flow", "--steps", "3", "--seeds", "4", "--first-seed", "1000")
        compare.main([*short, "--work", str(tmp_path / "work"), *given])
        return read_rows(result_rows.KEPT, Measured)

    return ran


def test_a_comparison_is_judged_once_and_leaves_the_bundle(run: Any, tmp_path: Path) -> None:
    only = ("--only", "ort_static-defaults")
    (found,) = run(*only)
    (theirs,) = found.others
    assert (found.denoiser, found.steps, found.first, found.seeds, found.engine) == ("tiny", 3, 1000, 4, "onnxruntime")
    assert found.code == compare.digest_own_code() and theirs.name == "onnxruntime, defaults"
    assert any(version.startswith("onnxruntime ") for version in found.versions)
    assert 100 > found.ours.mean > theirs.quality.mean > 10
    assert found.lead is None and found.above == pytest.approx(found.ours.mean - theirs.quality.mean)
    (bundle,) = (tmp_path / "work/bundles").iterdir()
    assert open_bundle(bundle).manifest.bodies.keys() == {"float32", "int8-cpu-x86"}
    assert "| tiny | 3 | 4 from 1000 | onnxruntime |" in (tmp_path / "lab/measured/zoo.md").read_text()

    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/*/*") if path.is_file()}
    assert run(*only, "--picture", str(tmp_path / "strip.png")) == [found]
    shown = np.asarray(Image.open(tmp_path / "strip.png"), int)[::2, ::2]  # 3 rows of 4 seeds, with lines between
    float32, own, other = (shown[top : top + 8, 8:] for top in (0, 9, 18))
    assert shown.shape == (26, 35) and 0 < abs(own - float32).mean() < abs(other - float32).mean()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/*/*") if path.is_file()} == kept


@pytest.mark.slow
def test_a_calibrated_bundle_of_one_s_own_is_compared_and_goes_into_no_page(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ("--only", "ort_static-defaults")
    known = run(*only)
    (bundle,) = (tmp_path / "work/bundles").iterdir()
    (shown,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny | "))
    of_own = ("--seeds", "4", "--first-seed", "1000", "--work", str(tmp_path / "own"), *only)
    compare.main(["--bundle", str(bundle), *of_own])
    assert shown in capsys.readouterr().out.splitlines() and read_rows(result_rows.KEPT, Measured) == known

    plain = write_bundle(tmp_path / "plain", denoiser())
    with pytest.raises(SystemExit, match="2"):
        compare.main(["--bundle", str(plain), *of_own])
    assert f"fewstep calibrate {plain} --target cpu-x86" in capsys.readouterr().err.splitlines()[-1]


def test_a_tool_that_fails_is_a_row_with_its_reason(run: Any) -> None:
    (found,) = run("--only", "ort_static-defaults", "--python", "ort_static=/no/python")
    assert found.ours.mean > 10 and found.others[0].quality is None
    assert found.others[0].reason == "its Python does not start: No such file or directory"


def test_everyone_follows_the_conditions_that_ours_was_calibrated_with(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    write = compare.write_material
    monkeypatch.setattr(Small, "own", True)
    monkeypatch.setattr(compare, "write_material", lambda *all: given.append(all[-1]) or write(*all))
    (found,) = run("--only", "ort_static-defaults")
    assert [each["class"].tolist() for each in given] == [[0, 1, 0, 1]]
    assert 10 < found.others[0].quality.mean < found.ours.mean


def test_a_kept_judgement_is_of_this_code_and_of_these_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    found = Quality(40.0, 35.0, 30.0, 96, 100, ("a",), 0.1)
    monkeypatch.setattr(Judge, "_measure", lambda self, contender: made.append(contender) or found)
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    contender = Contender("onnxruntime")
    monkeypatch.setattr(Contender, "body", "float32")

    def judge(*rows: float) -> Quality:
        own = {"class": np.array(rows)} if rows else None
        return Judge(bundle, None, range(4), Material(tmp_path, None), rows=own)(contender)  # type: ignore[arg-type]

    assert judge() == judge() == found and len(made) == 1
    monkeypatch.setattr(judge_bodies, "code_digest", lambda: b"another")
    assert judge() == judge() == found and len(made) == 2
    assert judge(0, 1) == judge(0, 1) and len(made) == 3
    assert judge(1, 0) and len(made) == 4
