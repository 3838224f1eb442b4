"""The page of feature caching: what a plan costs, and which plan of full steps it is compared with."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import caching
from benchmarks.caching import (
    EVALUATIONS,
    LIGHT_STEPS,
    SOLVERS,
    Case,
    full_plans_of,
    part,
    plans_of,
    rows_of,
    rows_of_equal_time,
)
from fewstep.runtime.sampling.loading import load


@pytest.fixture(scope="module")
def case(exported_light: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("skipping", load(exported_light), tmp_path_factory.mktemp("kept"))


@pytest.mark.slow
def test_a_light_step_costs_its_share_of_the_work(case: Case) -> None:
    share = case.sampler.bundle.manifest.features.share
    assert plans_of(case)["dpmpp_2m:20+every"] == pytest.approx(10 + 10 * share)
    assert len(plans_of(case)) == len(EVALUATIONS) * (len(LIGHT_STEPS) + len(SOLVERS) - 1)
    assert "unipc_2:20+every(linear=True)" in plans_of(case)


def test_a_plan_of_full_steps_costs_no_more(case: Case) -> None:
    assert full_plans_of(case, 6.97) == ["dpmpp_2m:6", "unipc_2:6", "ipndm:6", "deis_log_rho_3:6"]


def test_the_best_plan_of_full_steps_is_compared_seed_by_seed(case: Case) -> None:
    values = {name: np.array([20.0, 24.0]) for name in plans_of(case)}
    for cost in plans_of(case).values():
        values |= {plan: np.array([10.0, 11.0]) for plan in full_plans_of(case, cost)}
        values |= {f"unipc_2:{int(cost + 1e-6)}": np.array([21.0, 27.0])}
    row = rows_of(case, values)[0]
    assert row.other.startswith("unipc_2") and (row.psnr, row.other_psnr) == (22.0, 24.0)
    assert row.gain == pytest.approx((-2.0, 1.0))
    values |= {f"dpmpp_2m:{count}": np.array([30.0, 30.0]) for count in EVALUATIONS}
    assert "| 22.0 | `unipc_2:" in part(case, values) and "-2.0 ± 1.0 |" in part(case, values)


def test_at_equal_time_the_full_plans_have_the_measured_number_of_steps(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "EQUAL_TIME", {"skipping": {10: 7}})
    values = {plan: np.array([20.0, 24.0]) for plan in plans_of(case)}
    values |= {each: np.array([19.0, 21.0]) for each in full_plans_of(case, 7)} | {"ipndm:7": np.array([25.0, 27.0])}
    rows = rows_of_equal_time(case, values)
    assert [row.plan for row in rows] == [f"{solver}:10+every(linear=True)" for solver in SOLVERS]
    assert {(row.cost, row.other, row.gain) for row in rows} == {(7, "ipndm:7", (-4.0, 1.0))}


def test_a_block_has_all_that_the_tables_need(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "EQUAL_TIME", {"skipping": {10: 7}})
    monkeypatch.setattr(Case, "psnr", lambda self, plan, seeds: np.arange(len(seeds), dtype=float))
    text = part(case, caching.measure_block(case, range(3)))
    assert ", 3 seeds." in text
    assert text.count("+0.0 ± 0.0") == len(plans_of(case)) + len(SOLVERS)


def test_what_was_sampled_is_kept(case: Case) -> None:
    first = case.psnr("ddim:2", [0, 1])
    before = sorted(path.name for path in case.folder.iterdir())
    np.testing.assert_array_equal(case.psnr("ddim:2", [0, 1]), first)
    assert sorted(path.name for path in case.folder.iterdir()) == before and len(before) == 2
