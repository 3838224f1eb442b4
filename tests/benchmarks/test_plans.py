"""benchmarks/plans.py: that it runs and says what it measured; times are not for a test to judge."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/plans.py"


@pytest.mark.parametrize("solver", ["dpmpp_2m", "rddm"])  # any denoiser, and one of its own
def test_it_says_what_a_plan_costs(solver, monkeypatch, capsys):
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setattr(sys, "argv", ["plans.py", solver, "--json"])
    assert script["main"]() in (0, 1)
    found = json.loads(capsys.readouterr().out)
    (cost,) = found["solvers"]
    assert (cost["name"], cost["rows"], cost["evaluations"]) == (solver, 2, 50)
    assert 0 < cost["step"] < cost["compile"] < 1


def test_a_late_solver_is_marked():
    script = runpy.run_path(str(SCRIPT))
    costs = [script["Cost"]("fast", 1, 50, 1e-3, 1e-5), script["Cost"]("slow", 1, 50, 2e-2, 1e-5)]
    _, slow, fast, noise = script["table"](costs, 1e-4).split("\n")
    assert slow.endswith("misses a bar") and not fast.endswith("misses a bar")
    assert noise == "one draw of noise: 100 us"
