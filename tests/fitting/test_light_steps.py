"""Light steps chosen by a threshold: the errors are those of the features that the plan's light steps read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.cli.describe.light_steps import light_dry_run
from fewstep.cli.main import main
from fewstep.fitting.light_steps import choose_light_steps, open_light_task
from fewstep.fitting.options import FitOptions
from fewstep.measure.rollouts.seeds import FIT_SEEDS, draw_conditions
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.plan import LIGHT
from fewstep.runtime.sampling.loading import load
from tests.refusals import refuses

PLAN, SEEDS = "ddim:10@trailing", 8
THRESHOLD = 0.05


def choose(bundle: Path, threshold: float = THRESHOLD, guidance: float | None = 2.0):
    options = FitOptions(bundle, plan=parse_plan_text(PLAN), light=threshold, seeds=SEEDS, guidance=guidance)
    return choose_light_steps(open_light_task(options))


def test_the_error_of_a_step_is_that_of_the_features_that_it_would_read(exported_light: Path) -> None:
    """By hand: the features of all steps of the full plan, weighted as the light steps of the new plan read them."""
    choice, sampler, made = choose(exported_light), load(exported_light), []
    watched = replace(sampler, on_call=lambda index, call: made.append(call.returned["next_features"].copy()))
    seeds = FIT_SEEDS[:SEEDS]
    list(watched.steps(sampler.compile(PLAN, 2.0), seeds, draw_conditions(sampler.bundle.manifest, seeds), 2.0))
    plan, full, expected = sampler.compile(choice.plan, 2.0), [], {}
    for number, step in enumerate(plan.steps):
        if step.network == LIGHT:
            read = sum(weight * made[before] for weight, before in zip(step.carry_in[0].row, full[::-1], strict=False))
            expected[number] = np.abs(read - made[number]).mean() / np.abs(made[number]).mean()
        else:
            full.append(number)
    assert 2 < len(expected) < 9
    assert {number: choice.errors[number] for number in choice.light} == pytest.approx(expected, rel=1e-4)


def test_a_step_is_light_below_the_threshold_only(exported_light: Path) -> None:
    choice = choose(exported_light)
    below = [number for number, error in enumerate(choice.errors) if error is not None and error < THRESHOLD]
    assert choice.errors[0] is None and list(choice.light) == below


def test_the_cost_counts_light_steps_by_their_share_of_the_work(exported_light: Path) -> None:
    choice, features = choose(exported_light), load(exported_light).bundle.manifest.features
    assert features is not None
    assert choice.cost == pytest.approx(10 - len(choice.light) * (1 - features.share))


def test_features_are_measured_on_the_conditions_of_a_file(exported_light: Path, tmp_path: Path) -> None:
    """By hand, for one class, which random conditions would mix with others."""
    np.savez(tmp_path / "labels.npz", **{"class": np.array([2])})
    options = FitOptions(exported_light, plan=parse_plan_text(PLAN), light=1e-9, seeds=SEEDS)
    choice = choose_light_steps(open_light_task(replace(options, conditions=tmp_path / "labels.npz")))
    made: list[np.ndarray] = []
    watched = replace(load(exported_light), on_call=lambda index, call: made.append(call.returned["next_features"]))
    list(watched.steps(watched.compile(PLAN), FIT_SEEDS[:SEEDS], {"class": [2] * SEEDS}))
    expected = np.abs(made[0] - made[1]).mean() / np.abs(made[1]).mean()
    assert choice.errors[1] == pytest.approx(expected, rel=1e-4)
    assert choose_light_steps(open_light_task(options)).errors[1] != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("unused", [{"output": Path("plan.json")}, {"teacher": parse_plan_text("ddim:40")}])
def test_options_that_a_choice_of_light_steps_does_not_read_are_refused(unused: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"--light cannot be combined with --{next(iter(unused))}"):
        FitOptions(Path("bundle"), light=0.1, **unused)


def test_a_tiny_threshold_leaves_all_steps_full(exported_light: Path) -> None:
    choice = choose(exported_light, 1e-9)
    assert (choice.plan, choice.light, choice.cost) == (PLAN, (), 10.0)


def test_the_verb_prints_a_plan_that_runs(
    exported_light: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, light = str(exported_light), ["--light", str(THRESHOLD), "--plan", PLAN, "--seeds", "8"]
    assert main(["fit", bundle, *light]) == 0
    plan = next(line.partition("): ")[0] + ")" for line in capsys.readouterr().out.splitlines() if "are light" in line)
    assert main(["run", bundle, "--plan", plan, "-c", "class=1", "-o", str(tmp_path / "samples.npy")]) == 0
    assert np.isfinite(np.load(tmp_path / "samples.npy")).all()


@pytest.mark.parametrize("plan", [None, "ddim:4+every", "fitted:4"])
def test_a_plan_that_takes_no_light_steps_is_refused(exported_light: Path, plan: str | None) -> None:
    reference = None if plan is None else parse_plan_text(plan)
    with pytest.raises(UserError, match="give --plan SOLVER:STEPS, without light steps"):
        open_light_task(FitOptions(exported_light, plan=reference, light=0.1))


def test_a_bundle_without_a_light_network_is_refused(exported_carrying: Path) -> None:
    with refuses("light network", "--cache"):
        open_light_task(FitOptions(exported_carrying, plan=parse_plan_text(PLAN), light=0.1))


@pytest.mark.parametrize("light", [0.0, 1.0, -0.1])
def test_a_threshold_is_a_share(light: float) -> None:
    with pytest.raises(UserError, match="--light is"):
        FitOptions(Path("bundle"), light=light)


def test_a_dry_run_without_a_plan_is_refused_as_the_run_is(exported_light: Path) -> None:
    with refuses("--light", "--plan SOLVER:STEPS"):
        light_dry_run(FitOptions(exported_light, light=0.1))
