"""Denoisers with a time for each position: their export, and rolling samples, compared with a torch loop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.verification.points import comparison_points
from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.literature.streams.stream import stream
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.noise import normal_batch
from fewstep.plans.spec import Stairs
from fewstep.plans.transforms import tail
from fewstep.runtime import Hold
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.request import denoiser_facts
from tests.export.networks import per_position_time_denoiser
from tests.export.networks.per_position_time_denoiser import PLACES, VALUES, Rolling, spec

pytestmark = pytest.mark.slow

BLOCKS, EULER = np.repeat(np.arange(4), 2), "ddim:4"  # even steps: the grid of such a denoiser
GOALS = np.random.default_rng(3).uniform(-1, 1, (6, 2, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rolling")
    export(ExportOptions(f"{per_position_time_denoiser.__file__}:make", folder / "bundle"))
    return folder / "bundle"


def by_hand(runs: int) -> list[np.ndarray]:
    """Return the positions that left after each run: Euler's method in torch, whose first run begins with three
    steps.
    """
    network, left, x = Rolling().eval(), list[np.ndarray](), torch.zeros(0)
    for run in range(runs):
        noise = torch.from_numpy(normal_batch([run, 10 + run], 0, (PLACES, VALUES)))
        x = torch.cat([x[:, 2:], noise[:, -2:]], dim=1) if run else noise
        for step in range(3 if run else 0, 4):
            done, after = (np.maximum(at - BLOCKS, 0) for at in (step, step + 1))
            time = torch.from_numpy(1 - done / 4).float().repeat(2, 1)
            with torch.no_grad():
                change = network(x, time, torch.from_numpy(GOALS[run]))
            x = x + torch.from_numpy((done - after) / 4).float()[:, None] * change
        left.append(x[:, :2].numpy())
    return left


def test_runs_are_those_of_a_loop_in_torch(bundle: Path) -> None:
    sampler, carried = load(bundle), None
    for run, expected in enumerate(by_hand(6)):
        seeds, goal = [run, 10 + run], {"goal": GOALS[run]}
        steps = list(sampler.steps(EULER, seeds, goal, carried=carried))
        assert len(steps) == (1 if run else 4)
        x, after = sampler.carry_on(EULER, seeds, goal, carried=carried)
        np.testing.assert_allclose(x[:, :2], expected, atol=3e-6)
        np.testing.assert_allclose(x[:, 2:], steps[-1].x0[:, 2:], atol=1e-6)  # the present prediction of the rest
        one, _ = sampler.carry_on(
            EULER, seeds[1:], {"goal": GOALS[run][1:]}, carried=carried and carried.select_samples([1])
        )
        np.testing.assert_allclose(one, x[1:], atol=1e-6)
        carried = after


def test_times_of_positions_are_fed_and_verified_at_random() -> None:
    feeds = [point.feeds["time"] for point in comparison_points(spec())]
    assert {times.shape[1] for times in feeds} == {PLACES}
    assert len(np.unique(np.concatenate(feeds))) > 100


def test_a_bare_evaluation_takes_a_time_for_each_position(bundle: Path) -> None:
    sampler, rng = load(bundle), np.random.default_rng(0)
    x, times = rng.standard_normal((3, PLACES, VALUES), np.float32), rng.random((3, PLACES), np.float32)
    goal = np.zeros((3, 2), np.float32)
    for time, whole in ((times, times), (0.5, np.full_like(times, 0.5)), ([0.1, 0.2, 0.3], None)):
        whole = np.repeat(np.float32([[0.1], [0.2], [0.3]]), PLACES, axis=1) if whole is None else whole
        with torch.no_grad():
            expected = Rolling().eval()(*map(torch.from_numpy, (x, whole, goal)))
        np.testing.assert_allclose(sampler.evaluate(x, time, {"goal": goal}), expected, atol=1e-6)
    with pytest.raises(UserError, match="shape"):
        sampler.evaluate(x, times[:, :-1], {"goal": goal})


def test_int8_is_calibrated_along_runs_that_roll_on(bundle: Path) -> None:
    calibrate(CalibrateOptions(bundle, EULER, ("cpu-x86",), trajectories=4))
    float32, int8 = load(bundle), load(bundle, precision="int8")
    (trial,) = int8.body.trials
    assert trial.psnr > 35
    carried = [None, None]
    for run in range(6):
        (exact, first), (near, second) = (
            each.carry_on(EULER, [run, 10 + run], {"goal": GOALS[run]}, carried=own)
            for each, own in zip((float32, int8), carried, strict=True)
        )
        assert 0 < np.sqrt(np.square(near - exact)[:, :2].mean()) < 0.1
        carried = [first, second]


def test_what_cannot_roll_on_is_refused_at_the_start(bundle: Path, tmp_path: Path) -> None:
    sampler, goal = load(bundle), {"goal": GOALS[0]}
    plan = sampler.compile(EULER)
    _, carried = sampler.carry_on(plan, [0, 1], goal)
    hold = Hold(np.zeros((2, PLACES, VALUES)), np.ones((2, PLACES, VALUES)))
    for call, names in (
        (lambda: sampler.compile("ddim:6"), "6 steps.*multiple of 4"),
        (lambda: sampler.carry_on(plan, [0], {"goal": GOALS[0][:1]}, carried=carried), "2, 8, 2.*1, 8, 2"),
        (lambda: sampler.carry_on("ddim:8", [0, 1], goal, carried=carried), "ddim:8"),
        (lambda: sampler.sample(plan, [0, 1], goal, hold=hold), "cannot hold part of a sample"),
        (lambda: sampler.sample_each([plan, plan], [0, 1], goal), "from run to run"),
        (lambda: stream(sampler, plan=plan, condition={"goal": GOALS[0][:1]}), "from run to run"),
        (lambda: tail(plan, 1), "continues from run to run"),
        (lambda: bake(BakeOptions(bundle, EULER, output=tmp_path / "rolling.onnx")), "continues from run to run"),
        (lambda: fit(FitOptions(bundle, 4)), "state.*from run to run"),
    ):
        with pytest.raises(UserError, match=names) as refused:
            call()
        assert refused.value.fix


def test_a_plan_of_other_positions_is_refused(bundle: Path) -> None:
    sampler, goal = load(bundle), {"goal": GOALS[0]}
    facts = denoiser_facts(sampler.bundle.manifest)
    for other in (
        compile_plan(EULER, replace(facts, stairs=None)),
        compile_plan(EULER, replace(facts, stairs=Stairs(-2, PLACES, 4))),
        compile_plan(EULER, replace(facts, stairs=Stairs(-1, VALUES, 1))),
    ):
        with pytest.raises(UserError, match="positions"):
            sampler.sample(other, [0, 1], goal)
