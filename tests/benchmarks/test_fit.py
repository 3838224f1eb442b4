"""benchmarks/fit.py: a fitted plan beside the nominal one, on a tiny bundle."""

import json
import sys

import fit as benchmark
import numpy as np
import pytest
from fit import main, noise_gain, table, top_octave

from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.plans.compile import compile_plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec


def test_a_fitted_plan_stands_behind_its_nominal_one(tiny_bundle, monkeypatch, capsys):
    few = {"seeds": 8, "selection_seeds": 8, "judge_seeds": 8, "iterations": 1, "teacher": "ddim:20"}
    fit(FitOptions(tiny_bundle, steps=2, plan="dpmpp_2m:2", guidance=2.0, **few))
    arguments = [str(tiny_bundle), "--seeds", "8", "--nominal", "dpmpp_2m:4", "--threads", "1", "--json"]
    monkeypatch.setattr(sys, "argv", ["fit.py", *arguments])
    assert main() == 0
    nominal, fitted, longer = json.loads(capsys.readouterr().out)
    assert [each["plan"] for each in (nominal, fitted, longer)] == ["dpmpp_2m:2", "fitted:2", "dpmpp_2m:4"]
    assert fitted["psnr"] > nominal["psnr"] + 3
    assert nominal["worst"] <= nominal["p5"] <= nominal["psnr"]
    assert fitted["energy"] == pytest.approx(1, abs=0.05)
    assert "| `float32` | 2 | `fitted:2` |" in table([benchmark.Figures(**fitted)])


def test_the_noise_gain_of_a_plan_whose_predictions_are_weighed_by_shares_is_one():
    plan = compile_plan("ddim:4", DenoiserFacts(ScheduleSpec("flow"), "flow"))
    assert noise_gain(plan) == pytest.approx(1.0)


def test_the_top_octave_is_what_alternates():
    stripes = np.tile([1.0, -1.0], 4)[None, None, None] * np.ones((1, 1, 8, 1))
    np.testing.assert_allclose(top_octave(stripes), stripes)
    np.testing.assert_allclose(top_octave(np.ones((1, 1, 8, 8))), 0.0)
