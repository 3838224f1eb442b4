"""The solvers as a list, a plan as a table and as a drawing."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fewstep.plans import grids
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.names.plan_name import SOLVERS
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.transforms import tail
from fewstep.report.drawing.plan_plot import draw_plan
from fewstep.report.drawing.plan_view import (
    LAGS,
    extract_recurrence,
    format_combination,
    start_equations,
    step_equations,
)
from fewstep.runtime import load
from tests.cli.conftest import Command
from tests.refusals import Words, assert_refusal
from tests.runtime.sampling.test_fitted_plans import give

LINEAR = DenoiserFacts(ScheduleSpec("linear"), "epsilon")


def test_every_solver_and_every_grid_is_listed_with_what_may_be_set(
    fewstep: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = json.loads(fewstep("plan", "--list", "--json").out)
    assert [each["name"] for each in listed["solvers"]] == SOLVERS.names()
    assert [each["name"] for each in listed["grids"]] == list(grids.__all__)
    by_name = {each["name"]: each for each in listed["grids"]}
    karras, table = by_name["karras"], by_name["table"]
    assert karras["about"] == "Evenly spaced in sigma^(1 / rho): Karras et al. 2022, arXiv 2206.00364, equation 5."
    assert karras["parameters"]["rho"] == 7.0 and karras["aliases"] == ["edm"] and karras["needs"] == []
    assert table["needs"] == ["sigmas"] and all(each["about"] for each in listed["grids"])
    assert [each["name"] for each in listed["grids"] if each["is_default"]] == ["arctan"]
    monkeypatch.setenv("COLUMNS", "400")
    printed = fewstep("plan").out
    assert all(f" {name} " in printed for name in (*SOLVERS.names(), *grids.__all__))
    assert "eta=0.0" in printed and "rho=7.0, sigma_min=None" in printed and "sigmas=..." in printed


def test_a_plan_is_shown_for_a_bundle(tiny_bundle: Path, fewstep: Command) -> None:
    printed = fewstep("plan", "--show", "ddim:2", "--bundle", tiny_bundle, "--guidance", 2).out
    assert "predicts v, guidance 2: 2 evaluations, 4 branches, 1 rows" in printed and "uncond" in printed


@pytest.mark.parametrize("body", ["float32", "int8-cpu-x86"])
def test_a_fitted_plan_is_shown_and_drawn_as_any_other(
    tiny_bundle: Path, tmp_path: Path, fewstep: Command, body: str
) -> None:
    give(tiny_bundle, body=body)
    of = ["--bundle", tiny_bundle, "--guidance", 2]
    shown = fewstep("plan", "--show", "fitted:3", *of).out.replace("fitted:3", "dpmpp_2m:3")
    nominal = fewstep("plan", "--show", "dpmpp_2m:3@trailing", *of).out
    assert shown.splitlines()[1:] == nominal.splitlines()[1:] and "3 evaluations" in shown
    assert "guidance 2" in fewstep("plan", "--show", "fitted:3", *of[:2]).out
    drawn = fewstep("plan", "--plot", "fitted:3", *of, "-o", tmp_path / "plan.svg").out
    assert "fitted:3 for schedule" in drawn and (tmp_path / "plan.svg").is_file()
    assert_refusal(fewstep("plan", "--show", "fitted:4", *of, code=1).err, names="no plan 'fitted:4' for float32")
    assert_refusal(fewstep("plan", "--show", "fitted:3", code=1).err, names="fitted:3", fix="--bundle")


@pytest.mark.parametrize("with_bundle", [False, True])
def test_a_plan_of_a_file_is_shown_as_it_is(
    tiny_bundle: Path, tmp_path: Path, fewstep: Command, with_bundle: bool
) -> None:
    file = tmp_path / "tail.json"
    file.write_bytes(encode(tail(load(tiny_bundle).compile("ddim:4"), 1)))
    bundle = ["--bundle", tiny_bundle] if with_bundle else []
    printed = fewstep("plan", "--show", file, *bundle).out
    assert "ddim:4 from step 1 for schedule" in printed and "3 evaluations" in printed
    said = "was compiled with guidance none, not 2" if with_bundle else "has its own guidance; leave --guidance out"
    assert said in fewstep("plan", "--show", file, "--guidance", 2, *bundle, code=1).err


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--show", "ddim:2", "--list"), ("--show", "--list")),
        (("--show", "ddim:2+every"), ("'ddim:2+every'", "depend on the bundle")),
        (("--show", "ddim:2", "--schedule", "cube"), "'cube'"),
        (("--show", "ddim:2", "--prediction", "vv"), "'vv'"),
        (("--plot", "ddim:2", "-o", "x.png"), "x.png"),
        (("--show", "dim:2"), "'dim'"),
    ],
)
def test_what_cannot_be_shown_is_named(fewstep: Command, arguments: tuple[str, ...], names: Words) -> None:
    assert_refusal(fewstep("plan", *arguments, code=1).err, names)


def test_a_combination_reads_like_arithmetic() -> None:
    assert format_combination((1.0, -0.5, 0.0, 2.0), ("a", "b", "c", "d")) == "a - 0.5 b + 2 d"
    assert format_combination((-1.0, 0.25), ("a", "b")) == "-a + 0.25 b" and format_combination((0.0,), ("a",)) == "0"


def test_equations_name_rows_outputs_and_noise() -> None:
    first, second = step_equations(compile_plan("ddpm:2", LINEAR), 0)
    assert first == "u = S0" and second.startswith("S0' = ") and second.endswith(" z1") and " cond" in second


def test_equations_begin_with_the_name_of_another_network() -> None:
    plan = compile_plan("ddim:4@trailing+every", replace(LINEAR, features="features"))
    assert [next(step_equations(plan, index)) for index in range(4)] == ["u = S0", "network light"] * 2


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_in_x0_a_step_of_ddim_is_the_papers(prediction: str) -> None:
    """x_t = sigma_t / sigma_s x_s + (alpha_t - sigma_t alpha_s / sigma_s) x0, for every prediction."""
    plan = compile_plan("ddim:5", DenoiserFacts(ScheduleSpec("linear"), prediction))  # type: ignore[arg-type]
    found = extract_recurrence(plan)
    alpha = np.array([step.alpha for step in plan.steps] + [1.0])
    sigma = np.array([step.sigma for step in plan.steps] + [0.0])
    np.testing.assert_allclose(found.keep, sigma[1:] / sigma[:-1], atol=1e-9)
    np.testing.assert_allclose(found.lags[0], alpha[1:] - sigma[1:] * alpha[:-1] / sigma[:-1], atol=1e-9)
    assert all(np.abs(found.lags[k]).max() < 1e-9 for k in range(1, LAGS)) and np.abs(found.noise).max() == 0


def test_a_multistep_solver_looks_back_one_evaluation_and_a_stochastic_one_adds_noise() -> None:
    found = extract_recurrence(compile_plan("dpmpp_2m:6", LINEAR))
    assert np.abs(found.lags[1][1:-1]).min() > 1e-3 and np.abs(found.lags[2]).max() < 1e-9
    assert found.earlier.max() < 1e-9
    assert extract_recurrence(compile_plan("ddpm:6", LINEAR)).noise[:-1].min() > 0.1


def test_in_x0_a_solver_on_noise_looks_back_to_the_start_and_the_drawing_says_so() -> None:
    """Its four stored outputs are noise, which x and x0 determine: no term is left out."""
    plan = compile_plan("ipndm:8", LINEAR)
    found = extract_recurrence(plan)
    assert found.earlier[:LAGS].max() == 0 and found.earlier[5] > 0.1
    assert "all earlier ones" in draw_plan(plan) and "all earlier ones" not in draw_plan(compile_plan("ddim:8", LINEAR))


def test_a_plan_that_clips_is_no_recurrence() -> None:
    with pytest.raises(UserError, match="has shaping"):
        extract_recurrence(compile_plan("ddim:4", LINEAR, shaping=Clip(-1.0, 1.0)))


def test_the_drawing_is_one_file_that_stands_alone(tmp_path: Path, fewstep: Command) -> None:
    output = tmp_path / "plan.svg"
    fewstep("plan", "--plot", "dpmpp_2m:6", "-o", output)
    root = ElementTree.fromstring(output.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "http" not in output.read_text().replace(
        root.tag[1:27], ""
    )
    plan = compile_plan("ddpm:3", LINEAR)
    assert {f"{name}" for name in ("input kept", "fresh noise") if name in draw_plan(plan)} == {
        "input kept",
        "fresh noise",
    }


def test_the_headline_of_a_plan_has_the_limits_of_its_clip(tmp_path: Path, fewstep: Command) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(encode(compile_plan("ddim:2", LINEAR, shaping=Clip(-1.5, 1.5))))
    assert ", clipped to [-1.5, 1.5]: 2 evaluations" in fewstep("plan", "--show", file).out


@pytest.mark.parametrize(
    ("strength", "expected"), [(None, ["S0 = z0", "S1 = 0"]), (0.5, ["S0 = 0.2803 image + 0.9599 z0"])]
)
def test_the_start_is_noise_or_a_noised_image(strength: float | None, expected: list[str]) -> None:
    assert [*start_equations(compile_plan("dpmpp_2m:4", LINEAR, strength=strength))] == expected


def test_the_table_begins_with_the_start_and_ends_with_the_sample(fewstep: Command) -> None:
    lines = [" ".join(line.split()) for line in fewstep("plan", "--show", "ddim:2").out.splitlines()]
    assert "start S0 = z0" in lines[3:5] and "end sample = S0" in lines[-2:]
