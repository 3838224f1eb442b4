"""Which inputs are watched, on the bundle of three convolutions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate, open_task
from fewstep.calibration.count import count_activations, count_progressively, ranges_table
from fewstep.calibration.inputs import LONG, Distribution, chosen, counted, evaluations, long_plan
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.task import Task
from fewstep.graph.graph import Array
from fewstep.ranges.observe import open_watched
from fewstep.runtime.backends import Arrays
from fewstep.runtime.loading import load
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle

STEPS = 50


@pytest.fixture
def options(tmp_path: Path) -> CalibrateOptions:
    return replace(FIRST, bundle=write_bundle(tmp_path / "bundle", denoiser()), target=("cpu-x86",), trajectories=8)


@pytest.fixture
def task(options: CalibrateOptions) -> Task:
    return open_task(options)


def drawn(inputs: Distribution, seeds: int = 400) -> np.ndarray:
    return np.array([i for seed in range(seeds) for i in chosen(inputs, seed, 8, STEPS)])


def test_uniform_steps_are_uniform_and_fixed_by_the_seed() -> None:
    counts = np.bincount(drawn("uniform"), minlength=STEPS)
    assert counts.min() > 25 and counts.max() < 100  # 60 expected of each, repeats left out
    assert chosen("uniform", 7, 8, STEPS) == chosen("uniform", 7, 8, STEPS) != chosen("uniform", 8, 8, STEPS)


def test_normal_steps_lean_to_the_clean_end() -> None:
    """Time has mean 0.4, 1 being noise, and what falls outside [0, 1] goes to the ends: 16 % to the clean one."""
    index = drawn("normal")
    inner = index[(index > 0) & (index < STEPS - 1)]
    assert 1 - inner.mean() / STEPS == pytest.approx(0.44, abs=0.03)
    assert (index == STEPS - 1).sum() > (index == 0).sum() > 0


def test_an_interval_is_even_with_both_ends_and_the_same_for_all() -> None:
    assert chosen("interval", 1, 8, STEPS) == chosen("interval", 2, 8, STEPS) == {0, 7, 14, 21, 28, 35, 42, 49}


@pytest.mark.parametrize("inputs", ["uniform", "normal", "interval"])
def test_counts_do_not_depend_on_the_batch_and_are_of_the_chosen_steps(task: Task, inputs: Distribution) -> None:
    watched = open_watched(task.prepared, ("h1",))
    found = []
    for batch in (1, 8):
        seen = [
            (evaluation.state.index, seed)
            for evaluation in evaluations(task, watched, inputs, batch=batch)
            for seed in counted(evaluation, inputs, len(task.plan.steps), LONG).seeds
        ]
        assert len(seen) == len(set(seen))
        found.append(sorted(seen))
    expected = [(i, seed) for seed in task.seeds for i in chosen(inputs, seed, len(task.plan.steps), LONG)]
    assert found[0] == found[1] == sorted(expected)
    assert len(long_plan(task).steps) == LONG


@pytest.mark.parametrize("inputs", ["uniform", "normal", "interval"])
def test_rows_that_heads_share_with_the_batch_go_with_their_sample(task: Task, inputs: Distribution) -> None:
    watched = open_watched(task.prepared, ("h1",))

    def with_heads(feeds: Arrays) -> dict[str, Array]:
        return watched(feeds) | {"heads": np.repeat(feeds["x"], 3, axis=0)}

    seen = 0
    for whole in evaluations(task, with_heads, inputs):
        evaluation = counted(whole, inputs, len(task.plan.steps), LONG)
        assert len(evaluation.feeds["x"]) == len(evaluation.tensors["h1"]) == 2 * len(evaluation.seeds)
        assert np.array_equal(evaluation.tensors["heads"], np.repeat(evaluation.feeds["x"], 3, axis=0))
        seen += len(evaluation.seeds) < len(task.seeds)
    assert seen or inputs == "interval"  # where all seeds see the same steps


def test_a_group_that_saw_nothing_takes_its_neighbour_and_is_named(
    task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    edged = replace(task, edges=(-1.0, 50.0))
    counts = count_activations(edged, "interval")
    assert counts.of("h1")[2] is counts.of("h1")[1]
    assert "lambda groups [2] saw no inputs" in caplog.text


def test_progressive_progress_names_the_pass(task: Task) -> None:
    told: list[str] = []
    count_progressively(task, "minmax", lambda stage, done, total: told.append(stage))
    passes = len(task.edges) + 1
    expected = [f"pass {number} of {passes}: trajectories" for number in range(1, passes + 1)]
    assert passes > 1 and list(dict.fromkeys(told)) == expected


def test_progressive_ranges_are_those_of_inputs_that_int8_steps_made(task: Task) -> None:
    """The first group sees noise, as ever; the last one the state that the int8 body leaves."""
    deployed, progressive = count_activations(task), count_progressively(task, "mse")
    first, last = (
        ranges_table(counts, task.prepared, "0" * 64, "plan", "mse")["x"].per_group
        for counts in (deployed, progressive)
    )
    assert first[0] == last[0]
    assert first[2] != last[2] and first[2].high == pytest.approx(last[2].high, rel=0.05)
    assert [histogram.stored.sum() for histogram in progressive.of("h1")] == [h.stored.sum() for h in deployed.of("h1")]


def test_the_body_that_is_calibrated_progressively_samples_what_float_does(options: CalibrateOptions) -> None:
    made = calibrate(replace(options, inputs="progressive", groups="merged"))
    assert made.manifest.provenance.commands[-1].endswith("--inputs progressive --seed 1000000")
    given = {"seeds": range(8), "condition": {"class": [0, 1] * 4}, "guidance": 2.0}
    exact = load(options.bundle).sample("ddim:3", **given)
    error = load(options.bundle, "int8").sample("ddim:3", **given) - exact
    assert 0 < np.square(error).mean() < 1e-3 * np.square(exact).mean()
