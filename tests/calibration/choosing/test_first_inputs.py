"""What integer kernels are checked on: samples of trials, or else the first trajectory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration import calibrate as verb
from fewstep.calibration.choosing.first_inputs import first_inputs
from fewstep.calibration.choosing.trials import open_trials
from fewstep.calibration.opening import open_task
from fewstep.graph.graph import GROUP
from fewstep.plans.plan import regroup
from fewstep.rollouts.trajectories import roll_out
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", denoiser())


def test_both_have_the_first_step_of_each_group_row_by_row(bundle: Path) -> None:
    """Guidance asks two branches, of which the rows of the first sample are taken."""
    task = open_task(replace(FIRST, bundle=bundle, trajectories=4, guidance=2.0))
    plan = regroup(task.plan, task.edges[:1])  # three steps, two groups
    groups = [step.group for step in plan.steps]
    (course, *_) = courses = open_trials(task.sampler, plan, len(task.seeds))
    found = first_inputs(task, plan, courses)
    assert list(found) == [0, 1] and groups.count(0) + groups.count(1) == 3
    for group, rows in found.items():
        state = course.reference[groups.index(group)]
        assert len(rows) == len(state.step.branches) == 2
        assert all(each[GROUP] == group and len(each["x"]) == len(each["row"]) == 1 for each in rows)
        np.testing.assert_array_equal([each["x"][0] for each in rows], [state.u[0]] * 2)
        made = np.concatenate([task.sampler.denoiser({n: each[n] for n in ("x", "row")})["v"] for each in rows])
        np.testing.assert_allclose(made, [each[0] for each in state.outputs], atol=1e-6)
    alone = first_inputs(task, plan)
    calls = list(roll_out(task.sampler, plan, task.seeds[:1]))
    for group, rows in alone.items():
        call = calls[groups.index(group)]
        np.testing.assert_array_equal(np.concatenate([each["x"] for each in rows]), call.feeds["x"])
        np.testing.assert_array_equal(np.concatenate([each["row"] for each in rows]), call.feeds["row"])


def test_samples_of_trials_are_not_sampled_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def recorded(*given):  # type: ignore[no-untyped-def]
        seen.append(first_inputs(*given))
        return seen[-1]

    monkeypatch.setattr("fewstep.calibration.choosing.first_inputs.roll_out", lambda *given: pytest.fail("again"))
    monkeypatch.setattr(verb, "first_inputs", recorded)
    verb.calibrate(replace(FIRST, bundle=bundle, ranges="auto", target=("cpu-x86",)))
    assert [list(each) for each in seen] == [[0, 1, 2]]
