"""A choice that nothing meets: what it prints and keeps, and times of a busy machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.cli.main import main
from fewstep.plans.errors import UserError
from fewstep.report.choosing import deployments
from fewstep.report.choosing.choose import NoneWithinLimits, choose
from fewstep.report.choosing.deployment_judge import DeploymentJudge
from fewstep.report.choosing.saved_choice import load_choice
from tests.refusals import assert_refusal, refuses
from tests.report.choosing.test_choose import options


def test_a_refused_budget_prints_what_was_measured(
    tiny_bundle: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["choose", str(tiny_bundle), "--within", "1ms", "--plan", "ddim:2", "--seeds", "3"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "int8-cpu-x86" in printed.out and "2 ms" in printed.out and "6 ms" in printed.out
    assert printed.err.splitlines()[-1].startswith(f"fewstep: no deployment samples {tiny_bundle} within 1ms")
    assert main([*command, "--json"]) == 1
    assert [*json.loads(capsys.readouterr().out)] == ["error", "fix"]


def test_times_of_a_busy_machine_are_kept_until_it_is_idle(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployments, "measure_load", lambda _: 3.0)
    timed, is_sure = list[str](), [False]
    ratios = deployments.measure_ratios

    def measure(judging: DeploymentJudge, body: str, *given: Any) -> tuple[dict[str, float], bool]:
        timed.append(body)
        return ratios(judging, body, *given)[0], is_sure[0]

    monkeypatch.setattr(deployments, "measure_ratios", measure)
    first = choose(options(tiny_bundle, within="1s"))
    bodies = sorted({row.body for row in first.deployments})
    assert not any(row.is_sure for row in first.deployments) and sorted(timed) == bodies
    calls.clear()
    assert choose(options(tiny_bundle, within="1s")) == first and sorted(timed) == bodies
    monkeypatch.setattr(deployments, "measure_load", lambda _: 1.0)
    is_sure[0] = True
    assert all(row.is_sure for row in choose(options(tiny_bundle, within="1s")).deployments)
    assert sorted(timed) == sorted(2 * bodies) and calls == []  # the samples are judged once


def test_a_budget_that_nothing_keeps_is_refused_with_the_nearest(tiny_bundle: Path, calls: list[str]) -> None:
    with pytest.raises(NoneWithinLimits) as caught:
        choose(options(tiny_bundle, within="1ms", at_least="0dB"))
    assert_refusal(caught.value, ("1ms", "0dB", "ddim:2 on int8-cpu-x86"))
    rows = caught.value.choice.deployments
    assert [row.plan for row in rows] == ["ddim:2", "ddim:2"] and caught.value.choice.chosen is None
    with refuses(("150dB", "ddim:8 on float32")):
        choose(options(tiny_bundle, at_least="150dB"))
    with pytest.raises(UserError, match="no choice is stored for"):
        load_choice(tiny_bundle)
