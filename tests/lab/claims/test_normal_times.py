"""The ablation's times: steps of a long trajectory."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fewstep.measure.rollouts.trajectories import BodyCall
from lab.claims.ptq4dm_times import LONG, at_drawn_steps, count_at_normal_times, draw_steps
from tests.calibration.test_calibrate import FIRST, denoiser, task_of, write_bundle


def test_normal_times_lean_to_the_clean_end_and_each_sample_counts_at_its_own(tmp_path: Path) -> None:
    """Times of N(0.4, 0.4): those outside [0, 1] go to the ends."""
    index = np.array([step for seed in range(4000) for step in draw_steps(seed, 1, LONG)])
    inner = index[(index > 0) & (index < LONG - 1)]
    assert 1 - inner.mean() / LONG == pytest.approx(0.47, abs=0.02)
    assert ((index == LONG - 1).mean(), (index == 0).mean()) == pytest.approx((0.173, 0.073), abs=0.015)
    task = task_of(replace(FIRST, bundle=write_bundle(tmp_path / "bundle", denoiser()), guidance=2.0))
    one = replace(task, edges=())
    drawn = sum(len(draw_steps(seed, len(task.plan.steps), LONG)) for seed in task.seeds)
    assert count_at_normal_times(one).group_histograms("x")[0].stored.sum() == drawn * 2 * 64  # branches, numbers of x


def test_a_sample_counts_at_the_steps_that_it_drew() -> None:
    seeds = range(6)
    rows, tensor = np.array([*seeds, *seeds]), np.repeat([*seeds, *seeds], 3)  # two branches; three rows a sample
    for index in range(LONG):
        state: Any = SimpleNamespace(index=index, step=SimpleNamespace(branches=("cond", "uncond")))
        part = at_drawn_steps(BodyCall(state, seeds, {"x": rows}, {"y": tensor}), 8, LONG)
        drew = [seed for seed in seeds if index in draw_steps(seed, 8, LONG)]
        assert part.seeds == drew and part.feeds["x"].tolist() == drew * 2
        assert part.tensors["y"].tolist() == np.repeat(drew * 2, 3).tolist()
