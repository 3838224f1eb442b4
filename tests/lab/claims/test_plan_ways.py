"""plan_ways.py: each line runs the solver or the change that it names."""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fewstep.literature.time_shift import estimate_shift, shift_times
from fewstep.plans.compile import compile_plan
from fewstep.plans.guidance import CfgPlusPlus, Pag
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime import load
from lab.claims import plan_ways, scores
from lab.claims.plan_ways import CLAIMS
from lab.claims.settings import APART, Setting


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
    "GHVB of order 4": {("ghvb(order=4):8", 7.5)},
    "HB of order 4": {("hb(order=4):8", 7.5)},
    "Nesterov of order 4": {("nesterov(order=4):8", 7.5)},
    "DPM-Solver++": {("dpmpp_2m:20@arctan", 2.0)},  # by PSNR on the nearest grid, and by FD
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


@pytest.mark.parametrize(
    ("way", "number", "least", "most"), [("ours", 0, 54, 56), ("plain", 0, 29, 31), ("plain", 1, 47, 49)]
)
def test_a_picture_comes_back_by_bdia_nearer_than_by_ddim_in_40_evaluations(
    way: str, number: int, least: float, most: float, tiny_bundle: Path
) -> None:
    """The controls are DDIM and a solver of the second order."""
    calls, sampler = [], load(tiny_bundle)
    graph = sampler.network().graph
    counting = sampler.with_network_parts(graph=lambda feeds: calls.append(1) or graph(feeds))
    of = Setting(counting, None, "class", range(2))
    claim = [each for each in CLAIMS if each.system == "BDIA"][number]
    assert of.picture.shape[0] == len(of.seeds)  # made before its evaluations are counted
    calls.clear()
    made = claim.ours(of) if way == "ours" else claim.plain(of, claim.evaluations)
    assert least < scores.psnr_of_return(of, made).mean() < most and len(calls) == claim.evaluations == 40


def test_the_time_shift_of_a_line_is_of_the_mean_variance_of_other_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the window and the cutoff of its network."""
    plan = compile_plan("ddim:10", DenoiserFacts(ScheduleSpec("linear"), "epsilon"))
    inputs = np.random.default_rng(0).standard_normal((10, len(APART), 1, 2, 2))
    told, ran = [], []
    sampler = SimpleNamespace(
        bundle=SimpleNamespace(manifest=SimpleNamespace(schedule=ScheduleSpec("linear"))),
        compile=lambda name, _: plan,
        steps=lambda _, seeds, who: told.append((seeds, who)) or [SimpleNamespace(u=u) for u in inputs],
    )
    claim = next(each for each in CLAIMS if each.system == "Time-Shift Sampler")
    setting: Any = SimpleNamespace(
        source="unet_epsilon_linear.py:make", sampler=sampler, condition="class", sample=lambda *a, **_: ran.append(a)
    )
    monkeypatch.setattr(plan_ways, "SHIFTED", {})
    claim.ours(setting)
    variances = [np.mean([sample.var(ddof=1) for sample in u]) for u in inputs]
    times = estimate_shift(plan, NoiseSchedule(ScheduleSpec("linear")), variances, 20.0, 200.0)
    assert told == [(APART, {"class": [seed % 10 for seed in APART]})]
    assert ran == [(shift_times(plan, times),)] and times != [step.time for step in plan.steps]


def test_changed_networks_run_their_change_next_to_the_network_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    changes, ran = [], []

    def sample(plan: str, seeds: range, guidance: Any = None, **_: Any) -> Any:
        ran.append((plan, guidance))
        return np.zeros((len(seeds), 1))

    sampler: Any = SimpleNamespace(sample=sample)
    monkeypatch.setattr(plan_ways, "edit_source", lambda source, change: changes.append((source, change)) or sampler)
    of = Setting(sampler, None, "class", range(2), source="fashion_mnist")
    for claim in (
        candidate
        for candidate in CLAIMS
        if candidate.system in ("PAG", "Skip-Tuning") and "cifar10" not in candidate.models
    ):
        claim.ours(of), claim.plain(of, 0)
    assert changes == [("fashion_mnist", "pag")] * 3 + [("fashion_mnist", "skip_tuning:0.9,1")] * 2
    pag, five, ten = ("dpmpp_2m:5", Pag(1.0)), ("dpmpp_2m:5", 1.0), ("dpmpp_2m:10", 1.0)
    of_pag = [pag, ten, pag, ("dpmpp_2m:5", 1.25), pag, five]
    tuned = ("dpmpp_2m:5", None)
    assert ran == [*of_pag, tuned, five, tuned, ("unipc_2:5", 1.0)]


def test_guidance_on_cifar10_has_the_weights_of_other_seeds_in_equal_evaluations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PAG in the steps of its search, and CFG++ along the authors' solver with a weight for each number of steps."""
    ran: dict[str, set[Any]] = defaultdict(set)
    setting: Any = SimpleNamespace(source="cifar10", sample=lambda plan, guidance: (plan, guidance))
    monkeypatch.setattr(plan_ways, "replace", lambda s, sampler: s)
    monkeypatch.setattr(plan_ways, "edit_source", lambda source, change: None)
    for claim in (
        candidate for candidate in CLAIMS if candidate.system in ("PAG", "CFG++") and candidate.models == ("cifar10",)
    ):
        facts = DenoiserFacts(ScheduleSpec("flow"), "flow", perturbed=True, guided=True)
        runs: Any = (claim.ours(setting), claim.evaluations), (claim.plain(setting, 0), claim.plain_evaluations)
        for (name, guidance), evaluations in runs:
            ran[claim.system].add((name, guidance))
            assert sum(len(step.branches) for step in compile_plan(name, facts, guidance).steps) == evaluations
        few, many = claim.compared[0].of_few(setting), claim.compared[0].of_many(setting)  # type: ignore[union-attr, index]
        assert (few, many) == (
            (("dpmpp_2m:8", Pag(0.25)), ("dpmpp_2m:24", Pag(0.25)))
            if claim.system == "PAG"
            else (("ddim:10", CfgPlusPlus(1.1)), ("ddim:30", CfgPlusPlus(0.5)))
        )
    eight = "dpmpp_2m:8"
    assert ran == {
        "PAG": {(eight, Pag(0.25)), ("dpmpp_2m:16", 1.0), (eight, 1.5), (eight, 1.0)},
        "CFG++": {("ddim:10", CfgPlusPlus(1.1)), ("ddim:10", 2.0), ("ddim:10", 1.0)},
    }
