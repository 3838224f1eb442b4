"""Bodies that were calibrated along different plans, or with other options, are distinguished everywhere."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.calibration_settings import describe_judged_differences, read_settings
from fewstep.cli.verbs.report import verb
from fewstep.graph.files.commit import open_for_update
from fewstep.measure.bodies import int8_bodies
from fewstep.plans.any_plan import AnyPlan
from fewstep.report.options import ReportOptions
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import SILENT
from fewstep.runtime.sampling.loading import load
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle
from tests.report.judged_bundle import make_bundle

BOTH = replace(FIRST, target=("cpu-x86", "tensorrt"), guidance=2.0)
ELSEWHERE = "along a plan other than {}, so that their ranges may not fit: "
FEW = {"seeds": 2, "forced_seeds": 1, "teacher_seeds": 1, "simulated_seeds": 1, "batches": (1,), "rounds": 1}


def unlike_in(path: Path, plan: AnyPlan) -> tuple[str, ...]:
    bundle = open_bundle(path)
    return describe_judged_differences(bundle, int8_bodies(bundle), plan)


@pytest.fixture(scope="module")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both targets along ddim:3 with guidance 2, in one run."""
    folder = write_bundle(tmp_path_factory.mktemp("likeness") / "bundle", denoiser())
    calibrate(replace(BOTH, bundle=folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"plan": "ddim:4"}, ELSEWHERE.format("ddim:4, guidance 2") + "int8-tensorrt (ddim:3, guidance 2)"),
        # the plan's file in the bundle has the later guidance
        ({"guidance": 3.0}, ELSEWHERE.format("ddim:3, guidance 3") + "int8-tensorrt (ddim:3, guidance 2)"),
        (
            {"groups": "pooled", "seed": 2_000_000},
            "with other options than this time: int8-tensorrt (--groups step, --seed 1000000)",
        ),
        ({"threads": 1}, "with other options than this time: int8-tensorrt (no --threads)"),
        ({}, None),
        ({"quality": "20dB"}, None),  # the same ranges
        ({"plan": "ddim:4", "target": ("tensorrt", "cpu-x86")}, None),  # nothing stays
    ],
)
def test_bodies_that_stay_are_named_if_they_were_calibrated_otherwise(
    int8_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, object], warned: str | None
) -> None:
    bundle = Path(shutil.copytree(int8_bundle, tmp_path / "bundle"))
    again = replace(BOTH, bundle=bundle, **{"target": ("cpu-x86",), **changes})  # type: ignore[arg-type]
    made = calibrate(again)
    assert ("bodies of other targets are kept" in caplog.text) == (warned is not None)
    assert warned is None or f"are kept, calibrated {warned}; calibrate all targets in one run" in caplog.text
    stated = () if warned is None else (f"Calibrated {warned.replace('this time', 'int8-cpu-x86')}.",)
    assert unlike_in(bundle, made.plan) == stated


def test_a_weight_of_many_digits_is_the_plans(tmp_path: Path) -> None:
    made = calibrate(replace(BOTH, bundle=write_bundle(tmp_path / "bundle", denoiser()), guidance=1.23456789))
    assert "--guidance 1.23456789" in made.manifest.provenance.commands[-1]
    assert unlike_in(tmp_path / "bundle", made.plan) == ()


def test_the_options_of_a_plan_that_a_shell_quotes_are_read(tmp_path: Path) -> None:
    made = calibrate(replace(BOTH, bundle=write_bundle(tmp_path / "bundle", denoiser()), plan="ddim(eta=1):3"))
    assert "--plan 'ddim(eta=1):3'" in made.manifest.provenance.commands[-1]
    bundle = open_bundle(tmp_path / "bundle")
    options = read_settings(bundle, bundle.manifest.bodies["int8-tensorrt"]).options
    assert options is not None and options["plan"] == "ddim(eta=1):3"


@pytest.mark.slow
def test_the_report_says_it_on_the_page_on_the_terminal_and_as_json(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    asked = ReportOptions(bundle, teacher="dpmpp_2m:6", turn_seconds=0.01, **FEW)  # type: ignore[arg-type]
    verb(asked, SILENT)
    page, figures = bundle / "report" / "index.html", bundle / str(open_bundle(bundle).manifest.results)
    assert "another plan" not in page.read_text() and json.loads(figures.read_text())["unlike"] == []
    with open_for_update(bundle, must_exist=True) as writer:
        bodies = writer.manifest.bodies
        other = msgspec.structs.replace(bodies["int8-tensorrt"], plan="ddim:3")
        writer.commit(msgspec.structs.replace(writer.manifest, bodies={**bodies, "int8-tensorrt": other}))
    said = f"Calibrated {ELSEWHERE.format('dpmpp_2m:4, guidance 2')}int8-tensorrt (ddim:3)."
    shown = verb(asked, SILENT).shown
    figures = bundle / str(open_bundle(bundle).manifest.results)
    assert said in shown and json.loads(figures.read_text())["unlike"] == [said]
    assert re.sub("<[^>]+>", "", page.read_text()).count(said) == 1


def test_along_a_plan_that_none_was_calibrated_along_all_are_named(int8_bundle: Path) -> None:
    with load(int8_bundle) as sampler:
        (said,) = unlike_in(int8_bundle, sampler.compile("ddim:2", 2.0))
    bodies = "int8-cpu-x86 (ddim:3, guidance 2), int8-tensorrt (ddim:3, guidance 2)"
    assert said == f"Calibrated {ELSEWHERE.format('ddim:2, guidance 2')}{bodies}."
