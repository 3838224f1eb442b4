"""FD of plans with light steps: which full plans they are compared with, and the differences in the table."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.caching import EQUAL_TIME, OF_ALL_SOLVERS
from benchmarks.caching_distances import EQUAL_WORK, MEMBERS, STEPS, CachedJudge, lines_of, part, plans_of
from benchmarks.solver_distances import Judge
from benchmarks.solver_page import Cell


def test_both_denoisers_of_cifar10_are_measured() -> None:
    assert list(MEMBERS) == ["cifar10_dit", "cifar10"]
    assert {*MEMBERS} == {*EQUAL_WORK} == {*EQUAL_TIME}


def test_a_plan_with_light_steps_is_next_to_full_plans_of_its_work_and_of_its_time() -> None:
    plans = plans_of("cifar10", 50)
    assert plans[:4] == [
        "dpmpp_2m:50+every",
        f"dpmpp_2m:50+{OF_ALL_SOLVERS}",
        f"unipc_2:50+{OF_ALL_SOLVERS}",
        "dpmpp_2m:50",
    ]
    assert plans[4:] == [f"{solver}:{count}" for count in (29, 31) for solver in ("dpmpp_2m", "unipc_2", "ipndm")]


def test_equal_time_has_no_fewer_steps_than_equal_work() -> None:
    assert all(EQUAL_TIME[model][steps] >= EQUAL_WORK[model][steps] for model in MEMBERS for steps in STEPS)


def test_differences_are_of_equal_parts_of_the_samples() -> None:
    values = {plan: np.array([10.0, 20.0]) for plan in plans_of("cifar10", 20)}
    values["dpmpp_2m:20+every"] = np.array([31.0, 43.0])
    line = next(lines_of("cifar10", values))
    assert line == ["`dpmpp_2m:20+every`", "37.0 ± 6.0", "+22.0 ± 1.0", "11, equal work", *["+22.0 ± 1.0"] * 3]


def test_what_was_not_measured_has_no_line() -> None:
    values = {plan: np.array([10.0, 20.0]) for plan in plans_of("cifar10", 20)}
    assert len(list(lines_of("cifar10", values))) == 6
    assert len(list(lines_of("cifar10", {plan: values[plan] for plan in values if plan != "ipndm:11"}))) == 3
    assert part("cifar10", values, 128).startswith(
        "`cifar10`, 128 samples. All steps full: `dpmpp_2m:20` 15.0 ± 5.0.\n"
    )


def test_features_of_another_light_network_are_not_taken_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(light: str) -> CachedJudge:
        body = SimpleNamespace(graph=SimpleNamespace(file="light.onnx"))
        networks = {"light": SimpleNamespace(bodies={"float32": body})}
        manifest = SimpleNamespace(files={"light.onnx": light}, networks=networks)
        made = CachedJudge(MEMBERS["cifar10"], tmp_path, SimpleNamespace(), 1)  # type: ignore[arg-type]
        made.__dict__["bfloat16"] = SimpleNamespace(bundle=SimpleNamespace(manifest=manifest))
        return made

    monkeypatch.setattr(Judge, "digest", lambda self, cell: "full")
    cell = Cell("cifar10", "bfloat16", 1.0, "dpmpp_2m:20+every")
    assert judge("a").digest(cell) == judge("a").digest(cell) != judge("b").digest(cell)
