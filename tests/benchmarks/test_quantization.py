"""benchmarks/quantization: who is compared, which bars, and one comparison from end to end."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks.options import seeds_of
from benchmarks.quantization import compare, judging
from benchmarks.quantization.contenders import TOOLS, Contender, contenders
from benchmarks.quantization.judging import Judge, constant_image
from benchmarks.quantization.material import Material
from benchmarks.quantization.outcome import Outcome, Quality, Row, bars, is_met, table
from fewstep.calibration.calibrate import calibrate
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle

SHORT = ("--only", "ort_static-defaults", "--seeds", "4", "--no-speed", "--json")


def quality(mean: float, ops: Sequence[str] = ("a", "b"), macs: int = 98) -> Quality:
    return Quality(mean, mean - 5, mean - 9, macs, 100, tuple(ops))


def outcome(*rows: Row, model: str = "tiny", steps: int = 8) -> Outcome:
    return Outcome(model, f"ddim:{steps}", steps, 2.0, 64, 256, 8, "a processor", ("fewstep 1",), rows)


def test_ours_is_first_on_each_engine_of_the_tools_that_are_there() -> None:
    lines = contenders(TOOLS)
    assert [line.engine for line in lines if line.tool is None] == ["onnxruntime", "openvino", "tensorrt"]
    assert [line.body for line in lines[:3]] == ["int8-cpu-x86", "ort_static-defaults", "ort_static-outer"]
    assert len({line.body for line in lines}) == len(lines) == 3 + sum(len(tool.settings) for tool in TOOLS.values())
    assert {line.engine for line in contenders(["ort_static"])} == {"onnxruntime"}
    assert [line.name for line in contenders(TOOLS, ["=nncf_ptq-tuned"])] == ["fewstep", "NNCF, tuned"]
    assert [line.name for line in contenders(TOOLS, ["nncf_ptq-tuned"])] == [
        "fewstep",
        "NNCF, tuned",
        "NNCF, tuned-minmax",
        "NNCF, tuned-transformer",
    ]


def test_a_tool_or_a_setting_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match="there is no tool 'other'"):
        contenders(["ort_static", "other"])
    with pytest.raises(UserError, match="no setting has median"):
        contenders(TOOLS, ["median"])
    with pytest.raises(UserError, match="--python nncf_ptq"):
        compare.environments(["nncf_ptq"])


def test_the_bar_at_equal_coverage_takes_the_best_that_covers_as_much_and_nothing_else() -> None:
    rows = (
        Row("onnxruntime", "fewstep", quality=quality(45)),
        Row("onnxruntime", "one, defaults", "defaults", quality(36, ("a", "b", "c"))),
        Row("onnxruntime", "one, outer", "outer", quality(44, ("a",), 94)),  # covers less
        Row("onnxruntime", "one, tuned", "tuned", quality(42.5)),
        Row("onnxruntime", "one, tuned-entropy", "tuned-entropy", quality(43.5, ("b",), 95)),
        Row("onnxruntime", "two, defaults", "defaults", quality(30)),
        Row("openvino", "fewstep", quality=quality(47)),
        Row("openvino", "three, defaults", "defaults", reason="it broke"),
    )
    found = bars(rows)
    assert [(bar.engine, bar.other, bar.gain, bar.least, bar.met) for bar in found] == [
        ("onnxruntime", "one, tuned-entropy", 1.5, 2.0, False),
        ("onnxruntime", "one, defaults", 9.0, 10.0, False),
        ("onnxruntime", "two, defaults", 15.0, 10.0, True),
        ("openvino", "", None, 2.0, False),
    ]
    assert (
        str(found[0]) == "onnxruntime: +1.5 dB against one, tuned-entropy, the best at equal coverage (bar +2: missed)."
    )
    assert not is_met(outcome(*rows))
    assert is_met(outcome(rows[0], rows[3], rows[5]))


def test_nobody_of_equal_coverage_is_a_bar_missed() -> None:
    rows = (
        Row("onnxruntime", "fewstep", quality=quality(45)),
        Row("onnxruntime", "one, defaults", "defaults", quality(30, ("a", "b", "c"))),
    )
    equal, defaults = bars(rows)
    assert (equal.gain, equal.met, defaults.gain, defaults.met) == (None, False, 15.0, True)
    assert str(equal) == "onnxruntime: no other setting covers as much as ours (bar +2: missed)."
    assert not is_met(outcome(*rows))
    assert is_met(outcome(*rows, Row("onnxruntime", "one, tuned", "tuned", quality(43))))


def test_the_table_has_a_line_for_each_and_says_why_one_failed() -> None:
    rows = (
        Row("openvino", "fewstep", quality=quality(47.04), speed=1.5),
        Row("openvino", "NNCF, tuned", "tuned", reason="a | b"),
    )
    *_, first, second = table(rows).split("\n")
    assert first == "| openvino | fewstep | 47.0 | 42.0 | 98.0 % | 1.50 |"
    assert second == "| openvino | NNCF, tuned | failed: a / b | | | |"


def test_the_constant_image_of_errors_is_counted_beyond_chance() -> None:
    unlike = np.random.default_rng(0).normal(size=(16, 1, 64, 64))
    image = np.resize([1.0, -1.0], (1, 64, 64))
    assert np.square(unlike.mean(axis=0)).mean() / np.square(unlike).mean() == pytest.approx(1 / 16, rel=0.05)
    assert constant_image(unlike) == pytest.approx(0, abs=0.003)
    assert constant_image(unlike + image) == pytest.approx(0.5, abs=0.01)
    assert constant_image(unlike[:1]) == 1 and constant_image(np.zeros((4, 2))) == 0


def test_bodies_of_different_plans_are_refused() -> None:
    bodies = {"int8-cpu-x86": SimpleNamespace(plan="ddim:3"), "int8-openvino": SimpleNamespace(plan="ddim:4")}
    bundle = SimpleNamespace(path=Path("bundle"), manifest=SimpleNamespace(bodies=bodies))
    lines = contenders(["ort_static", "nncf_ptq"])
    with pytest.raises(UserError, match="int8-cpu-x86, int8-openvino were calibrated along different plans"):
        compare.calibrated_plan(SimpleNamespace(bundle=bundle), lines)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["--seeds", "--batch"])
def test_none_of_something_is_refused_in_one_line(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare.main(["bundle", option, "0"])
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"argument {option}: 0 is less than 1")


def test_seeds_that_others_are_calibrated_on_judge_nobody() -> None:
    given = SimpleNamespace(first_seed=1000, seeds=64)
    assert seeds_of(given) == range(1000, 1064)  # type: ignore[arg-type]
    given.first_seed = 99_937
    with pytest.raises(UserError, match="seeds 99937 to 100000 are not held out"):
        seeds_of(given)  # type: ignore[arg-type]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = write_bundle(tmp_path / "bundle", denoiser())
    calibrate(replace(FIRST, bundle=path, target=("cpu-x86",)))
    return path


def test_a_comparison_is_judged_once_and_leaves_the_bundle(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_bundle(bundle).manifest
    arguments = [str(bundle), "--work", str(tmp_path / "work"), *SHORT]
    compare.main(arguments)
    (found,) = json.loads(capsys.readouterr().out)["outcomes"]
    ours, theirs = found["rows"]
    assert (found["plan"], found["steps"], found["trajectories"], found["seeds"]) == ("ddim:3", 3, 4, 4)
    assert (ours["name"], theirs["name"]) == ("fewstep", "onnxruntime, defaults") and theirs["made_by"]
    assert ours["quality"]["int8_ops"] == ["h1"] and set(theirs["quality"]["int8_ops"]) == {"h0", "h1", "v"}
    assert 100 > ours["quality"]["mean"] > theirs["quality"]["mean"] > 10
    equal, defaults = found["bars"]  # by default it rounds the first and the last layer too
    assert (equal["gain"], equal["met"]) == (None, False)
    assert defaults["gain"] == pytest.approx(ours["quality"]["mean"] - theirs["quality"]["mean"])
    assert open_bundle(bundle).manifest == before

    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/*/*") if path.is_file()}
    picture = tmp_path / "strip.png"
    compare.main([*arguments, "--picture", str(picture)])
    assert json.loads(capsys.readouterr().out)["outcomes"] == [found]
    shown = np.asarray(Image.open(picture), int)[::2, ::2]  # 3 rows of 4 seeds of 8 x 8 pixels, with lines between
    float32, own, other = (shown[top : top + 8, 8:] for top in (0, 9, 18))
    assert shown.shape == (26, 35) and 0 < abs(own - float32).mean() < abs(other - float32).mean()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/*/*") if path.is_file()} == kept


def test_a_kept_judgement_is_of_this_code_and_of_these_conditions(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(Judge, "_measured", lambda self, contender: made.append(contender) or quality(40))

    def judge(*rows: float) -> Quality:
        own = {"class": np.array(rows)} if rows else None
        return Judge(bundle, None, range(4), Material(tmp_path, None), rows=own)(Contender("onnxruntime"))  # type: ignore[arg-type]

    assert judge() == judge() == quality(40) and len(made) == 1
    monkeypatch.setattr(judging, "code", lambda: b"another")
    assert judge() == judge() == quality(40) and len(made) == 2
    assert judge(0, 1) == judge(0, 1) and len(made) == 3
    assert judge(1, 0) and len(made) == 4
    for kept in tmp_path.glob("judged-*.json"):
        kept.write_text("{}")
    with pytest.raises(UserError, match=r"judged-int8-cpu-x86-.*json: .*`mean`.*; remove it, and judge again"):
        judge()


def test_a_tool_that_fails_is_a_row_with_its_reason(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(bundle), "--work", str(tmp_path / "work"), *SHORT, "--python", "ort_static=/no/python"]
    assert compare.main(arguments) == 1
    ours, theirs = json.loads(capsys.readouterr().out)["outcomes"][0]["rows"]
    assert ours["quality"]["mean"] > 10 and theirs["quality"] is None
    assert theirs["reason"] == "its Python does not start: No such file or directory"


def test_everyone_follows_the_conditions_that_ours_was_calibrated_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = write_bundle(tmp_path / "bundle", denoiser()), tmp_path / "own.npz"
    np.savez(file, **{"class": np.array([1, 0, 1])})
    calibrate(replace(FIRST, bundle=path, target=("cpu-x86",), conditions=file))
    arguments = [str(path), "--work", str(tmp_path / "work"), *SHORT]
    with pytest.raises(SystemExit):
        compare.main(arguments)
    assert "give that file to --conditions here" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        compare.main([*arguments, "--held-out", str(file)])
    assert "--held-out without --conditions" in capsys.readouterr().err
    compare.main([*arguments, "--conditions", str(file)])
    (outcome,) = json.loads(capsys.readouterr().out)["outcomes"]
    assert outcome["trajectories"] == 4 and all(row["quality"]["mean"] > 10 for row in outcome["rows"])


def test_a_bundle_without_our_body_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bundle(tmp_path / "bundle", denoiser())
    with pytest.raises(SystemExit):
        compare.main([str(path), "--work", str(tmp_path / "work"), *SHORT])
    assert "has no int8-cpu-x86" in capsys.readouterr().err
