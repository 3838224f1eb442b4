"""The search for the best nominal plan: its candidates, and which of them survive its rounds."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from benchmarks import best_plans
from fewstep.plans.compile import compile_plan
from fewstep.plans.plan import Plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec

FLOW = DenoiserFacts(ScheduleSpec("flow"), "flow")
BEST = "unipc_2:3@karras"


@dataclass
class Oracle:
    """A judge that knows the distances: 40 dB for BEST, 35 for its grid, 20 for all others. It counts the seeds."""

    seeds: dict[str, int] = field(default_factory=dict)

    def compile_plan_of(self, plan: str) -> Plan:
        return compile_plan(plan, FLOW)

    def numbers(self, plan: str) -> bytes:
        return plan.encode()

    def psnr(self, plan: str, seeds: int) -> Any:
        self.seeds[plan] = max(seeds, self.seeds.get(plan, 0))
        known = 40.0 if plan == BEST else 35.0 if plan.endswith("@karras") else 20.0
        return known + np.linspace(-1, 1, seeds)


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(best_plans, "solver_names", lambda: ["ddim", "heun", "unipc_2", "lms_4"])
    return Oracle()


def test_a_plan_takes_as_many_steps_as_its_evaluations_pay_for(oracle: Any) -> None:
    assert best_plans.affordable(oracle.compile_plan_of, "ddim", "trailing", 4) == "ddim:4@trailing"
    assert best_plans.affordable(oracle.compile_plan_of, "heun", "karras", 5) == "heun:3@karras"
    assert best_plans.affordable(oracle.compile_plan_of, "ddim", "ays_sd", 4) is None  # a grid of timesteps, on a flow


def test_the_best_plan_survives_and_few_plans_get_all_seeds(oracle: Any) -> None:
    found = best_plans.search(oracle, 3, 16)
    assert found.best[0].plan == BEST and found.best[0].psnr == pytest.approx(40.0)
    assert [score is None for score in found.named] == [False] * len(best_plans.NAMED)
    whole = {plan for plan, seeds in oracle.seeds.items() if seeds == 16}
    assert whole == {score.plan for score in (*found.best, *found.named)} and len(found.best) == best_plans.FINALISTS
    assert len(oracle.seeds) > 3 * len(whole)


def test_a_plan_that_leaves_the_numbers_is_no_winner(oracle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = oracle.psnr
    monkeypatch.setattr(oracle, "psnr", lambda plan, n: np.full(n, np.nan) if plan == BEST else known(plan, n))
    assert best_plans.search(oracle, 3, 16).best[0].psnr == pytest.approx(35.0)


def test_a_solver_without_its_fit_is_no_candidate() -> None:
    """DC-Solver without ratios equals UniPC, so no table lists it under its own name."""
    names = best_plans.solver_names()
    assert "unipc_2" in names and "dpmpp_2m" in names and "dc_solver" not in names
