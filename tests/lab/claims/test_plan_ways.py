"""plan_ways.py: each line runs the solver that it names."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from lab.claims import scores
from lab.claims.plan_ways import CLAIMS


def test_lines_of_mr_sampler_run_its_second_order_steps_without_the_midpoint_rule() -> None:
    """These are the published ones by test_mr_samplers_second_order_steps_are_the_usual_ones."""
    setting: Any = SimpleNamespace(sample=lambda plan, guidance: plan)
    ran = {(claim.system, claim.ours(setting)) for claim in CLAIMS if claim.system.startswith("MRS")}
    solvers = {"MRS": "dpmpp_2m(midpoint=False)", "MRS of the SDE": "dpmpp_2m_sde(midpoint=False)"}
    assert ran == {(system, f"{solver}:{few}") for system, solver in solvers.items() for few in (5, 6)}


class Names:
    """A setting whose samples are the name of their plan and its guidance. Those of `arctan` are the nearest."""

    seeds = range(2)

    def sample(self, plan: str, guidance: float | None = None) -> tuple[str, float | None]:
        return plan, guidance


OURS = {  # of the lines of published solvers
    "GHVB": {("ghvb:8", 7.5)},
    "HB": {("hb:8", 7.5)},
    "HB on DPM-Solver++": {("hb_dpmpp_2m:8", 7.5)},
    "HB on UniPC": {("hb_unipc:8", 7.5)},
    "Nesterov": {("nesterov:8", 7.5)},
    "DPM-Solver++": {("dpmpp_2m:20@arctan", 2.0)},
    "singlestep DPM-Solver": {("dpm_singlestep_2:10@arctan", 2.0)},
    "DEIS": {("deis_log_rho_3:10@arctan", 2.0)},
    "PNDM": {("s_pndm:19", None), ("s_pndm:49", None)},
    "PNDM of order 4": {("f_pndm:11", None), ("f_pndm:41", None)},
    "Score-SDE": {("score_sde_pc:20", None)},
    "Score-SDE at r 0.01": {("score_sde_pc(snr=0.01):20", None)},
}


def test_lines_of_solvers_run_them_and_their_controls_in_the_stated_evaluations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lab.claims.claim.replace", lambda s, seeds: s)
    monkeypatch.setattr(scores, "to_teacher", lambda: lambda s, x: np.array(x[0].endswith("@arctan")))
    setting, ran, stated = Names(), defaultdict[str, set[Any]](set), dict[Any, int | None]()
    for claim in (each for each in CLAIMS if each.system in OURS):
        ours: Any = claim.ours(setting)  # type: ignore[arg-type]
        theirs: Any = claim.plain(setting, 0)  # type: ignore[arg-type]
        solver = claim.control.split(" ")[0]
        assert solver in ("the", theirs[0].split(":")[0]) and theirs[1] == ours[1], claim.control
        ran[claim.system].add(ours)
        for run, evaluations in ((ours, claim.evaluations), (theirs, claim.plain_evaluations)):
            assert stated.setdefault(run, evaluations) == evaluations
    assert ran == OURS
    for (name, guidance), evaluations in stated.items():
        plan = compile_plan(name, DenoiserFacts(ScheduleSpec("linear"), "epsilon"), guidance)
        assert sum(len(step.branches) for step in plan.steps) == evaluations, name
