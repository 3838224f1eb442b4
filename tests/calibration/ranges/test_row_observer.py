"""Rows that are measured one by one have the same counts, bitwise, as rows that are held together."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.activation_counts import count_activations
from fewstep.calibration.ranges import row_observer
from fewstep.calibration.ranges.observe import Counts, open_observed
from fewstep.calibration.ranges.row_observer import RowObserver, are_large, open_counted, row_bytes
from fewstep.calibration.task import Task
from fewstep.calibration.trajectory_jobs import select_trajectories, split_trajectories
from fewstep.graph.files import io
from fewstep.measure.rollouts.trajectories import BodyCall
from fewstep.runtime.backends import LoadedGraph
from tests.calibration.test_calibrate import FIRST, task_of
from tests.refusals import refuses


@pytest.fixture
def task(bundle: Path) -> Task:
    """Guided: an evaluation of one trajectory has two rows."""
    found = task_of(replace(FIRST, bundle=bundle, target=("cpu-x86",), trajectories=3, guidance=2.0))
    assert len(found.plan.steps[0].branches) == 2
    return found


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a row were too large to be held together with the next one."""
    monkeypatch.setattr(row_observer, "LARGE", 0)


def same(one: Counts, other: Counts) -> bool:
    assert one.histograms.keys() == other.histograms.keys() and one.histograms
    return all(
        np.array_equal(histogram.stored, other.histograms[key].stored)
        and (histogram.exponent, histogram.first) == (other.histograms[key].exponent, other.histograms[key].first)
        and np.array_equal(histogram.lows, other.histograms[key].lows)
        and np.array_equal(histogram.highs, other.histograms[key].highs)
        for key, histogram in one.histograms.items()
    )


def one_by_one(task: Task, network: LoadedGraph) -> Iterator[BodyCall]:
    for part in split_trajectories(task):
        yield from select_trajectories(task, part).run_trajectories(network)


def test_counts_are_bitwise_those_of_rows_held_together(task: Task, request: pytest.FixtureRequest) -> None:
    expected = count_activations(task)
    request.getfixturevalue("large")
    assert isinstance(open_counted(task.prepared, expected), RowObserver)
    assert same(count_activations(task), expected)


def test_an_evaluation_holds_the_output_alone(task: Task, large: None) -> None:
    counts = Counts.empty(task.prepared, task.edges, 3)
    watched = open_counted(task.prepared, counts)
    assert isinstance(watched, RowObserver)
    held = [(set(each.tensors), watched.take_histograms()) for each in one_by_one(task, watched)]
    assert len(held) == 3 * 3 and all(tensors == {"v"} for tensors, _ in held)
    assert all(seen.keys() == set(counts.tensors) for _, seen in held)


def test_what_is_no_number_is_named_with_its_step(task: Task, large: None) -> None:
    """In one row of two. The other one is finite."""
    counts = Counts.empty(task.prepared, task.edges, 3)
    network = open_observed(task.prepared, counts.tensors)

    def broken(feeds):  # type: ignore[no-untyped-def]
        held = dict(network(feeds))
        calls.append(1)
        if len(calls) == 3:
            held["h1"] = np.full_like(held["h1"], np.nan)
        return held

    calls: list[int] = []
    watched = RowObserver(broken, task.prepared, counts)
    with refuses(("'h1'", "NaN", "step 2")):
        for each in one_by_one(task, watched):
            counts.add(each, watched.take_histograms())


@pytest.mark.parametrize(("external_above", "is_large"), [(0, True), (io.EXTERNAL_ABOVE, False)])
def test_rows_next_to_weights_in_files_are_large_sooner(
    task: Task, external_above: int, is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts.empty(task.prepared, task.edges, 3)
    size = row_bytes(task.prepared, counts.tensors)
    monkeypatch.setattr(io, "EXTERNAL_ABOVE", external_above)
    monkeypatch.setattr(row_observer, "LARGE", size)
    monkeypatch.setattr(row_observer, "BESIDE_LARGE", size - 1)
    assert are_large(task.prepared, counts.tensors) == is_large
    monkeypatch.setattr(row_observer, "BESIDE_LARGE", size)
    assert not are_large(task.prepared, counts.tensors)
