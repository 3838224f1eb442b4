"""`fewstep calibrate --dry-run` makes the same choices as `calibrate`."""

import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from fewstep.calibration import cost
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.open_task import open_tasks
from fewstep.calibration.options import check_options
from fewstep.cli.verbs.calibrate import dry_run
from fewstep.graph.resource_needs import format_duration
from fewstep.measure.estimate import seconds_per_evaluation
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.seeds import HELD_OUT_SEEDS
from fewstep.measure.rollouts.trajectories import BodyCall, roll_out
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import ESTIMATES
from fewstep.runtime.sampling.sampler import Sampler
from tests.bundles import change_bundle
from tests.calibration.test_calibrate import FIRST, run
from tests.refusals import refuses


def test_a_dry_run_takes_conditions_from_the_file_that_calibrate_takes_them_from(bundle: Path, tmp_path: Path) -> None:
    """The condition has no range, so values cannot be drawn."""
    manifest = open_bundle(bundle).manifest
    unknown = tuple(msgspec.structs.replace(condition, low=None, high=None) for condition in manifest.conditions)
    change_bundle(bundle, conditions=unknown)
    np.savez(tmp_path / "own.npz", **{"class": np.arange(12) % 2})
    own = replace(FIRST, bundle=bundle, conditions=tmp_path / "own.npz", trajectories=12)
    with refuses("condition 'class' has no range"):
        dry_run(replace(own, conditions=None))
    assert dry_run(own).value["evaluations"] == 12 * 3  # trajectories, steps
    assert calibrate(own).lowered


def test_a_dry_run_refuses_and_warns_as_calibrate_does(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = replace(FIRST, bundle=bundle, workers=200)
    monkeypatch.setattr("fewstep.measure.workers.setup.usable_threads", lambda: 2)
    monkeypatch.setattr("fewstep.graph.resource_needs.memory_free", lambda _: 10**9)
    dry_run(options)
    assert [said for said in caplog.messages if "trajectories" not in said] == [
        "this takes about 40.2 GB of memory, and 1.0 GB are free",
        "200 workers of 1 thread wait for each other on 2 cores: --workers 2 is as fast, in less memory",
    ]
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    for verb in (dry_run, calibrate):
        with refuses("1 kB", "free space"):
            verb(replace(options, workers=0))


def test_what_judging_costs_is_said(bundle: Path) -> None:
    would = dry_run(replace(FIRST, bundle=bundle, trajectories=64, target=("cpu-x86", "cpu-arm")))
    count = 2 * 3 * (8 * 3 + 64)  # targets, steps, seeds; 3 calls for the first seeds, and all seeds once more
    assert would.value["judging_evaluations"] == count  # type: ignore[index]
    said = f"on 8 samples, and what is written on up to 56 more: {count} evaluations"
    assert any(said in str(line) for line in would.shown)


def test_what_a_target_needs_is_asked_for_before_anything_is_measured(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    monkeypatch.setattr("fewstep.calibration.open_task.load_body", lambda *given: pytest.fail("went on"))
    for verb in (dry_run, calibrate):
        with refuses("openvino", "fewstep[openvino]"):
            verb(replace(FIRST, bundle=bundle, target=("cpu-x86", "openvino")))


def test_a_dry_run_counts_the_evaluations_that_calibrate_takes(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counting(*given: object, **more: object) -> Iterator[BodyCall]:
        for each in roll_out(*given, **more):  # type: ignore[arg-type]
            calls.append(len(each.seeds))
            yield each

    monkeypatch.setattr("fewstep.calibration.task.roll_out", counting)
    monkeypatch.setattr(cost, "LEAST_MEASURED", np.inf)  # long work is measured by evaluations of its own
    options = replace(FIRST, bundle=bundle, trajectories=12)
    found = dry_run(options)
    assert found.value["evaluations"] == 12 * 3
    assert "36 evaluations of one sample (" in "\n".join(map(str, found.shown))
    calibrate(options)
    assert sum(calls) == 36 * 2  # second moments follow the same trajectories once more


def test_a_dry_run_times_a_trajectory_of_calibration(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[range] = []

    def record_call(sampler: Sampler, plan: AnyPlan, rows: ConditionRecords | None, seeds: range, count: int) -> float:
        timed.append(seeds)
        return seconds_per_evaluation(sampler, plan, rows, seeds, count)

    monkeypatch.setattr(cost, "seconds_per_evaluation", record_call)
    dry_run(replace(FIRST, bundle=bundle, trajectories=12))
    (seeds,) = timed
    assert len(seeds) == 1 and {*seeds}.isdisjoint(HELD_OUT_SEEDS)


def test_a_dry_run_of_any_number_of_trajectories_comes_back(bundle: Path) -> None:
    """A list of all trajectories would take 99 GB."""
    found = dry_run(replace(FIRST, bundle=bundle, trajectories=99_999_999_999))
    assert found.value["evaluations"] == 99_999_999_999 * 3  # steps
    with pytest.raises(UserError, match="100000000000000000000 trajectories are too many"):
        dry_run(replace(FIRST, bundle=bundle, trajectories=10**20))


@pytest.mark.parametrize(("trajectories", "error_seeds", "judged_seeds"), [(12, 2, 8), (1, 1, 1)])
def test_a_long_time_is_said_before(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trajectories: int,
    error_seeds: int,
    judged_seeds: int,
) -> None:
    """The dry run lists the same evaluations: for ranges, moments, errors of operations, judging, and float32."""
    monkeypatch.setattr("fewstep.measure.estimate.measure_load", lambda: 1.0)
    options = replace(FIRST, bundle=bundle, trajectories=trajectories, target=("cpu-x86",))
    monkeypatch.setattr(cost, "_evaluation_seconds", lambda *_: 10.0)
    with caplog.at_level(logging.INFO, ESTIMATES.name):
        calibrate(options)
    further = trajectories - judged_seeds  # seeds for the body that is written
    checked = 2 * error_seeds  # other seeds and other conditions, with which float32's samples are compared
    float32 = 2 * judged_seeds + error_seeds + checked + further
    int8 = 3 * judged_seeds + judged_seeds + further
    count = 3 * (trajectories + trajectories + error_seeds + int8 + float32)
    said = f"this takes up to {format_duration(count * 10.0)}: {count} evaluations of one sample"
    assert any(message.startswith(said) for message in caplog.messages)
    assert dry_run(options).value["about_seconds"] == pytest.approx(count * 10.0, abs=1.0)  # and of recording


def test_a_large_network_is_also_opened_and_rounded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = replace(FIRST, bundle=bundle, trajectories=1, target=("cpu-x86",))
    monkeypatch.setattr(cost, "_evaluation_seconds", lambda *_: 10.0)
    monkeypatch.setattr(cost, "exceeds_one_file", lambda graph: True)
    monkeypatch.setattr(cost, "weight_bytes", lambda graph: 4 * 10**9)
    found = dry_run(options)
    evaluations = cost.estimate_cost([*open_tasks(options.open(), options, check_options(options)).values()]).estimate
    assert evaluations.preparation == 4 * 10.0 + 4 * 25  # four sessions: ranges, moments, errors, judging
    assert found.value["about_seconds"] == evaluations.sampling + 140
    (said,) = (line for line in found.shown if "opening the network" in str(line))
    assert said.startswith("opening the network and rounding its weights takes about 2 minutes; how much longer")


@pytest.mark.parametrize("trajectories", [1, 3, 4])
def test_few_trajectories_are_warned_of(bundle: Path, caplog: pytest.LogCaptureFixture, trajectories: int) -> None:
    calibration = run(bundle, trajectories=trajectories, target=("cpu-x86",))
    (trial,) = calibration.manifest.bodies["int8-cpu-x86"].trials
    assert trial.seeds == trajectories
    warned = [message for message in caplog.messages if "trajector" in message]
    assert len(warned) == (trajectories < 4)
    assert all(re.search(rf"after {trajectories} traject.*; use 64 \(--trajectories 64\)$", each) for each in warned)
    caplog.clear()
    would = dry_run(replace(FIRST, bundle=bundle, trajectories=trajectories))
    assert set(warned) <= set(caplog.messages)
    named = "1 trajectory and" if trajectories == 1 else f"{trajectories} trajectories and"
    assert any(f"would sample {named}" in str(line) for line in would.shown)
