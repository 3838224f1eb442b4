"""The number of runs that measure errors of operations. For a large network they take no longer than the rest of the
calibration.
"""

from types import SimpleNamespace
from typing import Any

import pytest

from fewstep.calibration import cost
from fewstep.calibration.lowering import attention_pairs
from fewstep.calibration.policy import POLICY


def task(trajectories: int, targets: int = 1, conditions: int = 1) -> Any:
    manifest = SimpleNamespace(conditions=(None,) * conditions)
    sampler = SimpleNamespace(bundle=SimpleNamespace(manifest=manifest))
    return SimpleNamespace(
        prepared=None, seeds=range(trajectories), targets=("one",) * targets, sampler=sampler, policy=POLICY
    )


@pytest.mark.parametrize(
    ("given", "runs"),
    [
        (task(1), 1 + 1 + 3),  # ranges, moments, three evaluations of a judged sample; a run has one sample
        (task(4), (4 + 4 + 3 * 4) // 2),
        (task(4, targets=2), (4 + 4 + 2 * 3 * 4) // (2 * 2)),
        (task(1, conditions=0), POLICY.fewest_error_runs),
        (task(64), POLICY.most_error_runs),  # the default
    ],
)
def test_the_runs_of_a_large_network_follow_the_trajectories(
    given: Any, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "exceeds_one_file", lambda graph: True)
    assert cost.operation_error_runs(given) == runs


@pytest.mark.parametrize("trajectories", [1, 4, 64])
def test_those_of_other_networks_do_not(trajectories: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "exceeds_one_file", lambda graph: False)
    assert cost.operation_error_runs(task(trajectories)) == POLICY.most_error_runs


@pytest.mark.parametrize(
    ("bound", "int8", "large", "count"),
    [(None, True, True, 4), (None, True, False, 0), (None, False, True, 0), ("30dB", True, True, 0)],
)
def test_two_bodies_with_attention_in_int8_are_judged_for_each_target_that_has_them(
    bound: str | None, int8: bool, large: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_pairs, "find_large_attention", lambda graph: ("product",) * large)
    targets = [SimpleNamespace(scheme=SimpleNamespace(int8_attention=each)) for each in (int8, int8, False)]
    given: Any = SimpleNamespace(targets=targets, bound=bound, prepared=None)
    assert cost._attention_bodies(given) == count
