"""The lines that `fewstep fit` prints."""

import shlex
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fewstep.cli.conditions import list_required_arguments
from fewstep.cli.main import main
from fewstep.cli.verbs.fit import dry_run, verb
from fewstep.fitting.feature_tradeoff import Trade
from fewstep.fitting.fit import fit
from fewstep.fitting.levenberg_marquardt import Gain
from fewstep.fitting.options import FitOptions
from fewstep.measure.distances.frechet import SetComparison
from fewstep.measure.rollouts.seeds import CHOICE_SEEDS
from fewstep.plans.guidance import Cfg
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import SILENT
from tests.cli.test_bake import calibrate_along
from tests.refusals import refuses

FEW = {"steps": 2, "seeds": 8, "selection_seeds": 8, "judge_seeds": 8, "iterations": 1}


def test_the_command_that_it_names_runs(tiny_bundle: Path, tmp_path: Path) -> None:
    options = FitOptions(tiny_bundle, plan="dpmpp_2m:2", guidance=2.0, **FEW)
    printed = str(verb(options, SILENT).then)
    words = shlex.split(printed[printed.index("fewstep run") :])
    assert words == [
        "fewstep",
        "run",
        str(tiny_bundle),
        *["--plan", "fitted:2", "--guidance", "2", "-c", "class=shirt"],
    ]
    assert main([*words[1:], "-o", str(tmp_path / "x.npy")]) == 0
    assert (tmp_path / "x.npy").is_file()


def test_a_dry_run_names_all_that_the_fit_may_begin_as(tiny_bundle: Path) -> None:
    options = FitOptions(tiny_bundle, guidance=2.0, **FEW)
    on_path = "plans, or of 4 solvers over times from the teacher's trajectories, with 2 evaluations to float32"
    assert str(dry_run(options).shown[0]).endswith(on_path)
    assert dry_run(options).shown[1] == "at guidance 2"
    assert dry_run(FitOptions(tiny_bundle, **FEW)).shown[1] == "at guidance none"
    calibrate_along(tiny_bundle, "ddim:3", 2.0)
    assert dry_run(FitOptions(tiny_bundle, **FEW)).shown[1] == "at guidance 2 as calibrated"
    calibrate_along(tiny_bundle, "ddim:3", Cfg((2.0, 1.0)))
    with refuses(("guidance 2,1", "single weight"), "--guidance WEIGHT"):
        dry_run(FitOptions(tiny_bundle, **FEW))
    named = dry_run(replace(options, plan="dpmpp_2m:2"))
    assert named.shown[0] == "would fit dpmpp_2m:2 with 2 evaluations to float32"
    assert named.value["solvers_on_path"] == ()


def test_a_previous_plan_that_is_better_is_named(tiny_bundle: Path) -> None:
    verb(FitOptions(tiny_bundle, plan="dpmpp_2m:2", guidance=2.0, **{**FEW, "iterations": 3}), SILENT)
    worse = FitOptions(tiny_bundle, plan="ddim:2", guidance=2.0, **FEW)
    assert str(verb(worse, SILENT).shown[-1]).startswith("the previous fitted:2 is kept: the new plan is ")


def test_the_gain_that_decided_against_a_plan_is_named_with_its_seeds(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FitOptions(tiny_bundle, plan="dpmpp_2m:2", guidance=2.0, **FEW)
    known = replace(fit(options), plan=None)
    few, many, none = Gain(1.23, 1.04), Gain(2.51, 0.53), Gain(0.0, 0.0)

    def line(chosen: Gain, judged: Gain, previous: Gain | None = None, seeds: int = 8) -> str:
        found = replace(known, on_selection=chosen, on_judge=judged, over_previous=previous)
        monkeypatch.setattr("fewstep.cli.verbs.fit.fit", lambda *_: found)
        return str(verb(replace(options, selection_seeds=seeds), SILENT).shown[-1])

    weak = "dpmpp_2m:2 is kept: the gain of +1.23 ± 1.04 dB on the {} is below two standard errors"
    assert line(few, many) == f"{weak.format('selection seeds')}; a larger --selection-seeds may decide"
    assert line(few, many, seeds=len(CHOICE_SEEDS)) == weak.format("selection seeds")
    assert line(many, few) == f"{weak.format('judge seeds')}; a larger --judge-seeds may decide"
    assert line(none, none) == "dpmpp_2m:2 is kept: no change improved it"
    lost = "the previous fitted:2 is kept: the gain of -0.30 ± 0.20 dB on the judge seeds is below two standard errors"
    assert line(many, Gain(-0.3, 0.2), many) == lost
    losing = line(many, many, Gain(-0.3, 0.2))
    assert losing == "the previous fitted:2 is kept: the new plan is 0.30 ± 0.20 dB worse on the judge seeds"


def test_a_plan_of_a_weak_teacher_is_written_and_not_kept(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = FitOptions(tiny_bundle, plan="dpmpp_2m:2", guidance=2.0, **FEW)
    weak = replace(fit(options), weak_teacher="the teacher ddim:3 is too inexact; leave --teacher out")
    monkeypatch.setattr("fewstep.cli.verbs.fit.fit", lambda *_: weak)
    end = [str(each) for each in verb(replace(options, output=Path("plan.json")), SILENT).shown[-2:]]
    reason = "no plan is saved: the teacher ddim:3 is too inexact; leave --teacher out"
    assert end == ["plan.json: the plan", f"{tiny_bundle}: {reason}"]


def test_lines_for_the_trade_and_for_the_distance_of_sets(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = FitOptions(tiny_bundle, plan="dpmpp_2m:2", guidance=2.0, **FEW)
    result = fit(options)

    def lines(trade: Trade | None, sets: SetComparison | None) -> list[str]:
        found = replace(result, trade=trade, features="cnn", sets=sets)
        monkeypatch.setattr("fewstep.cli.verbs.fit.fit", lambda *_: found)
        return [str(each) for each in verb(options, SILENT).shown[2:-2]]

    assert lines(None, None) == []
    assert lines(Trade(0.04, 0.0, 0.0, 1.0123, 1.0123), SetComparison(26.8, 23.4, 2.0, -0.5, 7.0)) == [
        "trade-off: -0.04 dB of PSNR on the selection seeds for a factor of 1.0123 towards the teacher's energy",
        "FD(cnn) to the teacher, same seeds: 23.40, fitted 26.80 (+3.40 ± 2.00)",
    ]
    assert lines(Trade(0.4, 3.0, 1.5, 1.0, 1.0123), SetComparison(41.8, 23.4, 7.0, 5.0, 32.0)) == [
        "trade-off: -0.40 dB of PSNR on the selection seeds for +1.50 dB of features at weight 3, and a factor of "
        "1.0000 towards the teacher's energy (the full factor is 1.0123)",
        "FD(cnn) to the teacher, same seeds: 23.40, fitted 41.80 (+18.40 ± 7.00): as a set, these samples are further "
        "from the teacher's",
    ]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (Condition("y", "y", shape=(1, 8, 8), dtype="float32"), ["-c", "y=@FILE.npy"]),
        (Condition("size", "size", low=3, high=9), ["-c", "size=3"]),
        (Condition("size", "size", default=(1.0,)), []),
        (Condition("size", "size", dtype="float32"), ["-c", "size=0"]),
    ],
)
def test_an_example_of_each_condition_without_a_default(tiny_bundle: Path, condition: Condition, words: list) -> None:
    manifest = msgspec.structs.replace(open_bundle(tiny_bundle).manifest, conditions=(condition,))
    assert list_required_arguments(manifest) == words


def test_a_bundle_with_a_text_encoder_needs_a_prompt(tiny_bundle: Path) -> None:
    pytest.importorskip("tokenizers")
    from tests.runtime.text_bundle import with_companions

    manifest = open_bundle(with_companions(tiny_bundle)).manifest
    assert list_required_arguments(manifest)[:2] == ["--prompt", '"..."'] and "text=" not in " ".join(
        list_required_arguments(manifest)
    )
