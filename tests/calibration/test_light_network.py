"""A denoiser with a light network in int8: both networks are measured along a plan with light steps, and judged."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.recorded_run import record_run
from fewstep.measure.rollouts.trajectories import roll_out
from fewstep.plans.plan import LIGHT
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.refusals import refuses

PLAN = "ddim:6+every(interval=2)"


@pytest.fixture(scope="module")
def made(exported_light: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Calibration]:
    path = shutil.copytree(exported_light, tmp_path_factory.mktemp("light") / "bundle")
    return path, calibrate(CalibrateOptions(path, plan=PLAN, guidance=2.0, trajectories=8, target=("cpu-x86",)))


def test_the_ranges_of_the_light_network_are_those_of_features_that_it_reads(made: tuple[Path, Calibration]) -> None:
    """They are counted on features of the step before, not on fresh ones."""
    sampler = load(made[0], body="float32")
    plan = sampler.compile(PLAN, 2.0)
    calls = list(roll_out(sampler, plan, range(8), network=LIGHT))
    assert [call.state.index for call in calls] == [1, 3, 5]
    full = list(roll_out(sampler, plan, range(8)))
    for light, before in zip(calls, full, strict=True):
        np.testing.assert_array_equal(light.feeds["carried_features"], before.tensors["next_features"])


def test_each_network_has_a_group_of_ranges_for_each_of_its_steps(made: tuple[Path, Calibration]) -> None:
    manifest = open_bundle(made[0]).manifest
    bodies = [manifest.bodies["int8-cpu-x86"], manifest.networks[LIGHT].bodies["int8-cpu-x86"]]
    assert [len(body.groups) + 1 for body in bodies] == [3, 3]


def test_float32_judged_as_a_body_of_either_network_is_exact(made: tuple[Path, Calibration]) -> None:
    sampler = load(made[0], body="float32")
    for network in ("denoiser", LIGHT):
        recorded = record_run(sampler, sampler.compile(PLAN, 2.0), [7, 8], network=network)
        graph = sampler.network(network).graph

        def exact(feeds, graph=graph):
            return graph({name: array for name, array in feeds.items() if name != "group"})

        assert recorded.decibels(recorded.run([exact] * recorded.groups)).min() > 120


def test_each_body_is_judged_by_whole_runs(made: tuple[Path, Calibration]) -> None:
    manifest = open_bundle(made[0]).manifest
    for body in (manifest.bodies["int8-cpu-x86"], manifest.networks[LIGHT].bodies["int8-cpu-x86"]):
        assert body.trials[0].psnr > 35 and body.trials[0].seeds == 8


def test_int8_runs_light_steps_close_to_float32(made: tuple[Path, Calibration], tmp_path: Path) -> None:
    labels = {"class": np.arange(8) % 3}
    with load(made[0]) as float32, load(made[0], "int8") as int8:
        expected, samples = (each.sample(PLAN, range(100, 108), labels, 2.0) for each in (float32, int8))
    assert psnr(expected, samples).mean() > 35
    pack(PackOptions(made[0], tmp_path / "device"))
    with load(tmp_path / "device", "int8") as packed:
        np.testing.assert_array_equal(packed.sample(PLAN, range(100, 108), labels, 2.0), samples)


def test_a_plan_without_light_steps_does_not_calibrate_the_light_network(exported_light: Path) -> None:
    with refuses("light", "--plan SOLVER:STEPS"):
        calibrate(CalibrateOptions(exported_light, plan="ddim:6", trajectories=8, target=("cpu-x86",)))
