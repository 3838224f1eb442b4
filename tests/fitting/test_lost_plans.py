"""A fitted plan whose file is lost is made again by the command that an error names, and prevents no other fit."""

import shlex
from pathlib import Path

import pytest

from fewstep.cli.main import main
from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.runtime.sampling.test_fitted_plans import give

FEW = {"plan": "dpmpp_2m:2", "seeds": 8, "selection_seeds": 8, "judge_seeds": 8, "teacher": "ddim:20", "iterations": 1}
SHORT = "--seeds 8 --selection-seeds 8 --judge-seeds 8 --teacher ddim:20 --iterations 1 --threads 1"


@pytest.mark.parametrize("is_missing", [True, False])
def test_the_printed_command_makes_it_again(
    tiny_bundle: Path, is_missing: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(FitOptions(tiny_bundle, steps=2, guidance=2.0, **FEW))
    (entry,) = open_bundle(tiny_bundle).manifest.fitted
    file = tiny_bundle / entry.file
    file.unlink() if is_missing else file.write_text("{}")
    (damage,) = verify(VerifyOptions(tiny_bundle)).damages
    assert main(["run", str(tiny_bundle), "--plan", "fitted:2", "--guidance", "2", "-c", "class=0", "-n", "1"]) == 1
    said = capsys.readouterr().err
    command = f"fewstep fit {tiny_bundle} --steps 2 --guidance 2"
    fault = "is missing" if is_missing else "is damaged or was edited (its sha256 differs)"
    fix = f"copy the bundle again, or make that file again: {command}"
    assert (damage.what, damage.fix) == (f"{tiny_bundle}: file {entry.file} {fault}", fix)
    assert f"{entry.file} {fault}; {fix}" in said
    assert main([*shlex.split(command)[1:], "--plan", "dpmpp_2m:2", *SHORT.split()]) == 0
    assert f"{entry.file} {fault}; this fit replaces it" in capsys.readouterr().err
    assert verify(VerifyOptions(tiny_bundle)).is_whole
    assert len(open_bundle(tiny_bundle).manifest.fitted) == 1


def test_another_fit_says_so_before_work_and_leaves_it(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    give(tiny_bundle, guidance=2.0)
    give(tiny_bundle, body="int8-cpu-x86", guidance=2.0)
    lost, _ = open_bundle(tiny_bundle).manifest.fitted
    (tiny_bundle / lost.file).unlink()
    given = ["fit", str(tiny_bundle), "--steps", "2", "--guidance", "2", *SHORT.split()]
    assert main([*given, "--dry-run"]) == 0
    fix = "copy the bundle again, or make that file again: fewstep fit"
    words = f"{lost.file} is missing; this fit does not replace it; {fix}"
    assert words in capsys.readouterr().err
    kept = fit(FitOptions(tiny_bundle, steps=2, guidance=2.0, output=tmp_path / "plan.json", **FEW))
    assert kept.plan is not None and words in caplog.text and (tmp_path / "plan.json").is_file()
    assert [plan.evaluations for plan in open_bundle(tiny_bundle).manifest.fitted] == [3, 3, 2]


def test_it_does_not_stand_in_the_way_of_a_plan_for_another_guidance(tiny_bundle: Path) -> None:
    give(tiny_bundle, guidance=4.0)
    plan = give(tiny_bundle, guidance=2.0)
    lost, _ = open_bundle(tiny_bundle).manifest.fitted
    (tiny_bundle / lost.file).write_text("{")
    with load(tiny_bundle) as sampler:
        assert sampler.compile("fitted:3", 2.0) == plan
