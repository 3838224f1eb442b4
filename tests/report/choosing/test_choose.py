"""`fewstep choose`: deployments, their front, the winner of a budget, and the stored measurements."""

import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.cli.main import main
from fewstep.cli.verbs.choose import dry_run
from fewstep.measure.rollouts.metrics import CEILING, psnr
from fewstep.measure.rollouts.nearness import LEAST_PSNR
from fewstep.measure.rollouts.seeds import held_out_conditions
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.names.plan_name import with_grid
from fewstep.report.choosing import choice_facts, cost, saved_choice
from fewstep.report.choosing import choose as choosing
from fewstep.report.choosing.choose import choose, open_judging
from fewstep.report.choosing.deployment_judge import DeploymentJudge
from fewstep.report.choosing.engines import TimedEngine
from fewstep.report.choosing.measurement_cache import machine_facts
from fewstep.report.choosing.options import ChooseOptions
from fewstep.report.choosing.saved_choice import load_choice, load_chosen_sampler
from fewstep.runtime.bundle.manifest import Difference, Trial
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.network import Network
from fewstep.runtime.sampling.step_call import GraphCall
from tests.bundles import change_bundle, with_body
from tests.cli.test_bake import calibrate_along
from tests.described_cpu import VNNI, describe_cpu
from tests.refusals import refuses
from tests.report.choosing.conftest import CALL, UNIT

PLANS = ("ddim:2", "ddim:4", "ddim:8")


def test_a_note_says_where_int8_is_not_worth_its_calibration(
    tiny_bundle: Path, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fastest int8 body on its engine, in calls with both branches of guidance."""
    describe_cpu(monkeypatch, tmp_path, VNNI)  # which int8-cpu-x86 suits
    asked: list[tuple[str, TimedEngine, int, int]] = []
    monkeypatch.setattr(choosing, "describe_small_speedup", lambda bundle, *given: asked.append(given) or "int8 wins")
    assert "int8 wins" in choose(options(tiny_bundle)).notes
    assert asked == [("int8-cpu-x86", TimedEngine("onnxruntime", 1, CALL["int8"]), 2, 0)]


def options(bundle: Path, **asked: Any) -> ChooseOptions:
    return ChooseOptions(bundle, **{"plan": PLANS, "guidance": 2.0, "seeds": 3, "teacher": "ddim:32", **asked})


def test_each_contender_has_its_time_and_its_distance_to_the_teacher(tiny_bundle: Path, calls: list[str]) -> None:
    rows = choose(options(tiny_bundle)).deployments
    assert {(row.body, row.plan): row.milliseconds for row in rows} == {
        (body, f"ddim:{steps}"): steps * CALL[body.partition("-")[0]]
        for body in ("float32", "int8-cpu-x86")
        for steps in (2, 4, 8)
    }
    sampler = load(tiny_bundle)
    conditions = held_out_conditions(sampler.bundle.manifest, range(3))
    lessons = sampler.sample("ddim:32", range(3), conditions, 2.0)
    own = psnr(load(tiny_bundle, "int8").sample("ddim:4", range(3), conditions, 2.0), lessons)
    (row,) = (row for row in rows if row.body == "int8-cpu-x86" and row.plan == "ddim:4")
    assert row.psnr == pytest.approx(own.mean(), abs=0.01)
    assert row.quality.standard_error == pytest.approx(own.std(ddof=1) / 3**0.5, abs=0.01)


def test_a_distilled_denoiser_is_chosen_along_its_own_plan(tiny_bundle: Path, calls: list[str]) -> None:
    """Float32 along it is the reference, and no other number of steps is tried."""
    distilled = change_bundle(tiny_bundle, distilled=True)
    found = choose(ChooseOptions(distilled, seeds=3, at_least="0dB"))
    plan = open_judging(ChooseOptions(distilled, seeds=3)).plan.name
    assert found.teacher == plan and {row.plan for row in found.deployments} == {with_grid(plan)}
    assert {row.precision: row.psnr for row in found.deployments}["float32"] == pytest.approx(CEILING)
    assert found.chosen is not None and found.chosen.winner.precision == "int8"


def test_the_best_within_a_time_wins_and_the_quickest_of_a_quality(tiny_bundle: Path, calls: list[str]) -> None:
    within = choose(options(tiny_bundle, within="12.5ms", at_least="0dB"))
    assert within.chosen is not None
    kept = [row for row in within.deployments if row.milliseconds <= 12.5]
    assert within.chosen.winner.psnr == max(row.psnr for row in kept)
    least = within.chosen.winner.psnr
    quickest = choose(options(tiny_bundle, at_least=f"{least - 0.01:.3f}dB")).chosen
    assert quickest is not None
    enough = [row for row in within.deployments if row.psnr >= least - 0.01]
    assert quickest.winner.milliseconds == min(row.milliseconds for row in enough)


def test_what_is_measured_already_is_not_measured_again(tiny_bundle: Path, calls: list[str]) -> None:
    first = choose(options(tiny_bundle, within="1s"))
    calls.clear()
    assert choose(options(tiny_bundle, within="1s")) == first and calls == []
    longer = choose(options(tiny_bundle, within="1s", plan=(*PLANS, "ddim:3")))
    assert {row.plan for row in longer.deployments} == {*PLANS, "ddim:3"}
    assert calls.count("int8") == 3 * 3  # three seeds along the new one


def test_plans_that_take_far_more_than_the_budget_are_not_tried(tiny_bundle: Path, calls: list[str]) -> None:
    rows = choose(options(tiny_bundle, within="3.5ms", at_least="0dB")).deployments
    assert {(row.precision, row.plan) for row in rows} == {
        ("float32", "ddim:2"),
        ("int8", "ddim:2"),
        ("int8", "ddim:4"),
    }


def test_the_winner_is_kept_for_run_and_for_programs(
    tiny_bundle: Path, calls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = choose(options(tiny_bundle, within="8ms", at_least="0dB")).chosen
    choice = load_choice(tiny_bundle)
    assert choice == made and choice.winner.precision == "int8"
    assert set(choice.family) <= set(PLANS) and choice.family[0] == choice.winner.plan
    with load_chosen_sampler(tiny_bundle, choice) as sampler:
        expected = sampler.sample(choice.winner.plan, [5, 6], {"class": [2, 2]}, choice.guidance)
    with refuses("the choice is for a run in 2GB of memory", "choose without --memory"):
        load_chosen_sampler(tiny_bundle, msgspec.structs.replace(choice, memory="2GB"))
    line = ["run", str(tiny_bundle), "-n", "2", "--seed", "5", "-c", "class=bag", "-o", str(tmp_path / "x.npy")]
    assert main([*line, "--chosen", "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out)["choice"]["winner"]["plan"] == choice.winner.plan
    assert np.array_equal(np.load(tmp_path / "x.npy"), expected)
    for name, value in (("precision", "int8"), ("precision", "float32"), ("backend", "onnxruntime"), ("threads", "0")):
        assert main([*line, "--chosen", f"--{name}", value]) != 0  # at its default too
        assert f"--chosen already sets --{name}; leave out --{name} or --chosen" in capsys.readouterr().err


def test_the_winner_is_baked_with_its_plan_body_and_guidance(
    tiny_bundle: Path, calls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = choose(options(tiny_bundle, within="8ms", at_least="0dB")).chosen
    assert choice is not None
    line = ["bake", str(tiny_bundle), "-o", str(tmp_path / "run.onnx"), "--chosen"]
    assert main([*line, "--json"]) == 0
    baked = msgspec.json.decode(capsys.readouterr().out)["holds"]
    assert (baked["precision"], baked["guidance"]) == ("int8", "2") and baked["plan"].startswith(choice.winner.plan)
    assert main([*line, "--plan", "ddim:2"]) != 0
    assert "--chosen already sets --plan; leave out --plan or --chosen" in capsys.readouterr().err
    run = ["run", str(tiny_bundle), "-n", "1", "-c", "class=bag", "-o", str(tmp_path / "x.npy"), "--chosen"]
    assert main(run) == 0
    assert ", guidance 2 as chosen, " in capsys.readouterr().out


def test_a_choice_runs_without_a_warning_on_the_plan_of_calibration(
    tiny_bundle: Path, calls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrate_along(tiny_bundle, "ddim:5", 2.0)
    choose(options(tiny_bundle, within="8ms", at_least="0dB"))
    choice = load_choice(tiny_bundle)
    line = ["run", str(tiny_bundle), "-n", "1", "-c", "class=bag", "-o", str(tmp_path / "x.npy")]
    assert main([*line, "--plan", choice.winner.plan, "--precision", "int8"]) == 0
    assert "its ranges may not fit" in capsys.readouterr().err
    assert main([*line, "--chosen"]) == 0
    assert main(["bake", str(tiny_bundle), "-o", str(tmp_path / "run.onnx"), "--chosen"]) == 0
    assert "its ranges may not fit" not in capsys.readouterr().err


def test_the_gain_of_guidance_is_the_one_of_calibration(tiny_bundle: Path, calls: list[str]) -> None:
    judged = Difference(step=2, gain=0.75, ratio=4.0, share=0.1)
    with_body(tiny_bundle, "int8-cpu-x86", trials=(Trial("channels", 40.0, 38.0, 8, is_chosen=True, guidance=judged),))
    rows = choose(options(tiny_bundle, plan=("ddim:2",))).deployments
    assert {row.precision: row.gain for row in rows} == {"float32": None, "int8": 0.75}
    assert {row.gain for row in choose(options(tiny_bundle, plan=("ddim:2",), guidance=1.0)).deployments} == {None}


def test_another_null_value_is_measured_again(tiny_bundle: Path, calls: list[str]) -> None:
    asked = options(tiny_bundle, plan=("ddim:2",))
    first = choose(asked).deployments
    (condition,) = open_bundle(tiny_bundle).manifest.conditions
    change_bundle(tiny_bundle, conditions=(msgspec.structs.replace(condition, null=0),))
    assert {row.psnr for row in choose(asked).deployments}.isdisjoint(row.psnr for row in first)


def test_a_body_whose_samples_are_not_finite_is_left_out(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Network.__call__

    def overflowing(network: Network, x: np.ndarray, *rest: Any) -> GraphCall:
        made = counted(network, x, *rest)
        return made._replace(output=made.output * (np.inf if network.body.precision == "int8" else 1))

    monkeypatch.setattr(Network, "__call__", overflowing)
    choice = choose(options(tiny_bundle, plan=("ddim:2",)))
    assert {row.precision for row in choice.deployments} == {"float32"}
    assert len(choice.left_out) == 1 and choice.left_out[0].startswith("int8-cpu-x86 is left out: ")
    assert "finite" in choice.left_out[0]


def test_where_nothing_runs_one_line_says_why_and_what_to_do(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """float32's reason; --verbose adds those of the other bodies."""

    def fastest_engine(bundle: Bundle, body: str, *_: object) -> TimedEngine:
        raise UserError(f"nothing here runs {body}", "install an engine")

    monkeypatch.setattr(choosing, "find_fastest_engine", fastest_engine)
    said = "no body to choose: nothing here runs float32; install an engine"
    words = ["choose", str(tiny_bundle), "--seeds", "2", "--plan", "ddim:2", "--teacher", "ddim:4"]
    assert main(words) == 1
    assert said in (error := capsys.readouterr().err) and "int8" not in error
    assert main([*words, "--verbose"]) == 1
    other = "int8-cpu-x86 is left out: nothing here runs int8-cpu-x86; install an engine"
    assert said in (error := capsys.readouterr().err) and other in error


def test_a_bundle_that_changed_has_no_choice(tiny_bundle: Path, calls: list[str]) -> None:
    choose(options(tiny_bundle, within="8ms", at_least="0dB"))
    with_body(tiny_bundle, "int8-cpu-x86", plan="ddim:4")
    said = r"^the choice of \d{4}-\d\d-\d\d no longer holds: body int8-cpu-x86 changed; fewstep choose "
    repeated = "--within 8ms --at-least 0dB --plan ddim:2,ddim:4,ddim:8 --seeds 3 --guidance 2 --teacher ddim:32$"
    with pytest.raises(UserError, match=f"{said}.* {repeated}"):
        load_choice(tiny_bundle)


def test_a_report_after_it_keeps_the_choice(tiny_bundle: Path, calls: list[str]) -> None:
    """A report times the calls of bodies again, and stores its page."""
    choose(options(tiny_bundle, within="8ms", at_least="0dB"))
    chosen = load_choice(tiny_bundle)
    with_body(tiny_bundle, "int8-cpu-x86", trials=(Trial("channels", 40.0, 38.0, 8, is_chosen=True),))
    change_bundle(tiny_bundle, {"report/figures.json": b"{}"})
    assert load_choice(tiny_bundle) == chosen


def test_a_plan_file_that_changed_has_no_choice(tiny_bundle: Path, calls: list[str], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    with load(tiny_bundle) as sampler:
        file.write_bytes(encode(sampler.compile("ddim:2", 2.0)))
        other = encode(sampler.compile("ddim:3", 2.0))
    choose(replace(options(tiny_bundle, within="8ms", at_least="0dB"), plan=(str(file),)))
    load_choice(tiny_bundle)
    file.write_bytes(other)
    with refuses(f"no longer holds: {file} changed", f"--within 8ms --at-least 0dB --plan {file}"):
        load_choice(tiny_bundle)


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        ("onnxruntime", "1.0.0", r"onnxruntime changed from 1.0.0 to \d\S+"),
        ("gone", "1.0.0", "gone changed from 1.0.0 to none"),
        ("processor", "another", "processor changed"),
    ],
)
def test_a_machine_that_changed_has_no_choice(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch, label: str, value: str, said: str
) -> None:
    choose(options(tiny_bundle, within="8ms", at_least="0dB"))
    load_choice(tiny_bundle)
    facts = machine_facts()
    monkeypatch.setattr(choice_facts, "machine_facts", lambda: {**facts, label: value})
    choice_facts.store_facts(open_bundle(tiny_bundle), "2026-11-01")
    monkeypatch.setattr(choice_facts, "machine_facts", lambda: facts)
    monkeypatch.setattr(saved_choice, "read_cached", lambda *_: None)  # as under the key of another machine
    with pytest.raises(UserError, match=f"^the choice of 2026-11-01 no longer holds: {said}; fewstep choose "):
        load_choice(tiny_bundle)


def test_the_command_shows_the_table_and_draws(
    tiny_bundle: Path, calls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["choose", str(tiny_bundle), "--within", "8ms", "--at-least", "0dB", "--seeds", "2", "--teacher", "ddim:32"]
    assert main([*line, "--plan", "ddim:2", "--plan", "ddim:4", "-o", str(tmp_path / "front.svg")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("ddim:2") == 2 + shown.count("--plan ddim:2") and "chosen" in shown
    assert f"fewstep run {tiny_bundle} --chosen" in shown
    drawn = (tmp_path / "front.svg").read_text()
    assert drawn.startswith("<svg") and ">2</text>" in drawn and ">4</text>" in drawn
    assert "budget: " in drawn and ">chosen</text>" in drawn


def test_a_choice_without_a_bound_is_refused_before_it_measures(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "choose needs a limit; give --within 20ms, --at-least 40dB or --memory 2GB, or plans to compare"
    for line in (["choose", str(tiny_bundle)], ["choose", str(tiny_bundle), "--dry-run"]):
        assert main(line) == 2
        assert capsys.readouterr().err == f"fewstep: {said} (--plan dpmpp_2m:8)\n"


def test_the_printed_command_runs_also_where_the_path_has_a_space(
    tiny_bundle: Path, calls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle.rename(tmp_path / "a bundle")
    assert (
        main(["choose", str(bundle), "--within", "8ms", "--at-least", "0dB", "--seeds", "2", "--plan", "ddim:2"]) == 0
    )
    words = shlex.split("fewstep run" + " ".join(capsys.readouterr().out.split()).partition("fewstep run")[2])
    assert words == ["fewstep", "run", str(bundle), "--chosen", "-c", "class=shirt"]
    assert main([*words[1:], "-n", "1", "-o", str(tmp_path / "x.npy")]) == 0


def test_a_dry_run_counts_what_a_choice_evaluates(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, call, rows = options(tiny_bundle, teacher="ddim:9"), Network.__call__, list[int]()
    monkeypatch.setattr(Network, "__call__", lambda network, x, *more: rows.append(len(x)) or call(network, x, *more))
    would = dry_run(asked).value
    assert isinstance(would, dict) and would["plans"] == list(PLANS) and would["bodies"] == ["float32", "int8-cpu-x86"]
    assert rows == [2, 2]  # both branches: the evaluation that is timed, and the one before it
    rows.clear()
    choose(asked)
    assert rows[:2] == [2, 2] and would["evaluations"] == sum(rows[2:]) / 2


def test_an_estimate_leaves_out_plans_that_take_far_more_than_the_budget(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 1 us each body keeps only its plan of 2 steps, of 2, 4 and 8."""
    engines = TimedEngine("onnxruntime", 1, 1.0)
    monkeypatch.setattr(cost, "read_fastest_engine", lambda *_: engines)
    judging = open_judging(options(tiny_bundle))
    plans = choosing.plans_by_body(judging, PLANS)
    whole, short = (cost.estimate(judging, plans, 1, budget).evaluations for budget in (None, 1e-3))
    assert whole - short == judging.count * (4 + 8) * len(plans)


def test_rows_of_calls_are_those_of_the_steps_with_the_fewest_and_the_most_branches() -> None:
    steps = [SimpleNamespace(branches=("cond", "uncond")), SimpleNamespace(branches=("cond",))]
    judging: Any = SimpleNamespace(batch=3, plan=SimpleNamespace(steps=steps))
    rows = DeploymentJudge.fewest_rows, DeploymentJudge.most_rows
    assert [row.__get__(judging) for row in rows] == [3, 6]


def test_an_untimed_body_of_two_networks_is_expected_to_take_an_evaluation_a_step(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1 ms, or 0.6 ms in int8: 8 steps exceed twice the budget of 2 ms, and 4 do not."""
    monkeypatch.setattr(cost, "networks", lambda manifest: ("expert", "denoiser"))
    monkeypatch.setattr(cost, "read_fastest_engine", lambda *_: None)
    monkeypatch.setattr(cost, "seconds_per_evaluation", lambda *_, count, batch: 1e-3)
    judging = open_judging(options(tiny_bundle))
    plans = choosing.plans_by_body(judging, PLANS)
    whole, short = (cost.estimate(judging, plans, 1, budget).evaluations for budget in (None, 2.0))
    assert whole - short == judging.count * 8 * len(plans)


def test_a_plan_that_no_body_has_is_refused_at_the_start(tiny_bundle: Path, calls: list[str]) -> None:
    with refuses("'fitted:5'", "fit it"):
        choose(options(tiny_bundle, plan=("fitted:5",)))
    with pytest.raises(UserError, match="unknown solver 'dimm'"):
        choose(options(tiny_bundle, plan=("dimm:5",)))


def test_a_time_follows_the_load_of_its_choice(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = choose(options(tiny_bundle)).deployments
    monkeypatch.setattr(choosing, "measure_unit", lambda judging, threads: 2 * UNIT)
    calls.clear()
    after = choose(options(tiny_bundle)).deployments
    assert [row.milliseconds for row in after] == [2 * row.milliseconds for row in before] and calls == []


def test_noise_is_not_chosen_unless_it_is_asked_for(tiny_bundle: Path, calls: list[str]) -> None:
    quickest = min(choose(options(tiny_bundle)).deployments, key=lambda row: row.milliseconds)
    assert quickest.psnr < LEAST_PSNR
    with pytest.raises(
        UserError,
        match="at least 25dB in PSNR or signal to error, and 15dB signal to error: the (fastest|best)",
    ):
        choose(options(tiny_bundle, within="2ms"))
    asked = choose(options(tiny_bundle, within="2ms", at_least=f"{quickest.psnr - 0.1:.2f}dB"))
    assert asked.chosen is not None and asked.chosen.winner == quickest
