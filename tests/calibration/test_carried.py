"""A denoiser with carried tensors: activations are counted, and bodies judged, along runs that continue each other."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.measure.judged_batch import JudgedBatch
from fewstep.measure.judged_run import Contender
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.recorded_run import RUNS, record_run
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.measure.rollouts.trajectories import roll_out
from fewstep.plans.plan import Bank, Carry, CarryIn
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.sampling.loading import load
from tests.exact_int8 import EXACT_BODY, EXACT_TARGET

STEPS = 4  # of ddim:3, and one of the sample


@pytest.fixture(scope="module")
def bundle(exported_carrying: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = shutil.copytree(exported_carrying, tmp_path_factory.mktemp("carried") / "bundle")
    calibrate(CalibrateOptions(path, plan="ddim:3", guidance=2.0, trajectories=8, target=(EXACT_TARGET,)))
    return path


def test_a_trajectory_is_runs_that_carry_on(bundle: Path) -> None:
    sampler = load(bundle, body="float32")
    plan = sampler.compile("ddim:3", 2.0)
    calls = list(roll_out(sampler, plan, [5], runs=RUNS))
    assert [call.is_last for call in calls] == [False] * (RUNS * STEPS - 1) + [True]
    past = [float(np.abs(call.feeds["carried_past"]).max()) for call in calls]
    assert past[:STEPS] == [0] * STEPS and min(past[STEPS:]) > 0.1
    assert [int(call.feeds["carried_count"].max()) for call in calls[::STEPS]] == [*range(RUNS)]
    first = list(roll_out(sampler, plan, [5]))
    for own, other in zip(first, calls, strict=False):
        np.testing.assert_array_equal(own.feeds["x"], other.feeds["x"])


def test_a_body_is_judged_by_its_last_run(bundle: Path) -> None:
    sampler = load(bundle, body="float32")
    course = record_run(sampler, sampler.compile("ddim:3", 2.0), [7, 8])
    assert len(course.states) == RUNS * STEPS

    def exact(feeds):
        return sampler.network().graph({name: array for name, array in feeds.items() if name != "group"})

    again = course.run([exact] * course.groups)
    assert course.decibels(again).min() > 120
    np.testing.assert_array_equal(again[-1].slots.banks["count"][0].value, np.full((4, 1), RUNS))
    assert load(bundle).bundle.manifest.bodies[EXACT_BODY].trials[0].psnr > 35


def test_a_forced_step_reads_what_float32_carried_there(bundle: Path) -> None:
    """Also if steps share a slot: forced steps of float32 itself then have no error."""
    sampler, bank = load(bundle, body="float32"), Bank("past", 1, is_kept=True)
    plan, read, made = sampler.compile("ddim:3", 2.0), CarryIn(0, (1.0,)), Carry(0, 0, (0.0, 1.0))
    steps = (replace(each, carry_in=(read, *each.carry_in[1:]), carry=(made, *each.carry[1:])) for each in plan.steps)
    plan = sampler.compile(replace(plan, steps=tuple(steps), banks=(bank, *plan.banks[1:])))
    batch = SeedBatch.from_manifest(sampler.bundle.manifest, range(3))
    for step in JudgedBatch(plan, (Contender("same", (), 3, 2),), batch).answer(lambda _: sampler)["same"].steps:
        assert [step.forced[1], *step.differences[:, 1]] == pytest.approx([0] * 3, abs=1e-9)


@pytest.mark.parametrize("body", [EXACT_BODY, "openvino"])
def test_other_engines_and_bodies_carry_the_same(bundle: Path, body: str) -> None:
    if body == "openvino":
        pytest.importorskip("openvino")
    exact = load(bundle, body="float32")
    other = load(bundle, body="float32", backend=OpenVino(batch=4)) if body == "openvino" else load(bundle, body=body)
    first, second = None, None
    for number in range(5):
        arguments = ("ddim:3", [number, 9], {"label": [number % 3, 1]}, 2.0)
        x, first = exact.carry_on(*arguments, carried=first)
        y, second = other.carry_on(*arguments, carried=second)
    if body == "openvino":
        np.testing.assert_allclose(y, x, atol=1e-5)
    assert psnr(y, x).min() > 35
