"""Ranges depend on the samples only, not on the number of rows of a call or on their order."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.calibration import activation_counts
from fewstep.calibration import open_task as opening
from fewstep.calibration.activation_counts import count_activations, tabulate
from fewstep.calibration.ranges import observe
from fewstep.calibration.task import Task
from fewstep.graph.graph import BATCH, Array, Graph, Value
from fewstep.graph.session import open_session
from fewstep.measure.rollouts.row_by_row import run_row_by_row
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.bundle.manifest import TensorEntry
from fewstep.runtime.sampling.loading import load_body
from fewstep.runtime.sampling.sampler import Sampler
from tests.calibration.test_calibrate import FIRST, denoiser, task_of, write_bundle

F32 = np.dtype(np.float32)
X, GROUP = Value("x", F32, (BATCH, 2)), Value("group", np.dtype(np.int64), (1,))
SAMPLES = 16


@pytest.fixture
def task(tmp_path: Path, fickle: None) -> Task:
    """A task on unstable engines, also for the prologue."""
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    return task_of(replace(FIRST, bundle=bundle, target=("cpu-x86",), trajectories=SAMPLES))


@pytest.fixture
def fickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines whose results change with the number of rows and with the row's place among them."""

    def open_unsteady(graph: Graph, also: Iterable[str] = (), optimize: bool = False, threads: int = 0) -> LoadedGraph:
        return unsteady(open_session(graph, also, optimize, threads=threads), "x")

    def load_unsteady(*arguments: Any) -> Sampler:
        sampler = load_body(*arguments)
        assert sampler.network().prologue is not None
        return sampler.with_network_parts(prologue=unsteady(sampler.network().prologue, "time"))

    monkeypatch.setattr(opening, "load_body", load_unsteady)
    monkeypatch.setattr(observe, "open_session", open_unsteady)


def unsteady(network: LoadedGraph, rows_of: str) -> LoadedGraph:
    def run(feeds: Arrays) -> dict[str, Array]:
        rows = len(feeds[rows_of])
        factors = 1 + 0.01 * rows + 0.001 * np.arange(rows)
        return {
            name: (value * factors.reshape(-1, *[1] * (value.ndim - 1))).astype(value.dtype)
            for name, value in network(feeds).items()
        }

    return run


def ranges(task: Task, batch: int, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(activation_counts, "BATCH", batch)
    return tabulate(task, count_activations(task)).encode()


@pytest.mark.parametrize("batch", [4, 16])
def test_ranges_are_bitwise_those_of_one_sample_at_a_time(
    task: Task, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ranges(task, batch, monkeypatch) == ranges(task, 1, monkeypatch)


def test_ranges_are_bitwise_the_same_in_any_order(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ranges(task, 4, monkeypatch)
    assert ranges(replace(task, seeds=task.seeds[::-1]), 4, monkeypatch) == expected
    assert ranges(replace(task, seeds=range(task.seeds.start + 1, task.seeds.stop + 1)), 4, monkeypatch) != expected


def test_each_row_is_alone_what_has_no_rows_goes_to_each_and_merged_heads_keep_their_order() -> None:
    seen: list[tuple[int, int]] = []

    def network(feeds: Arrays) -> dict[str, Array]:
        seen.append((len(feeds["x"]), int(feeds["group"][0])))
        return {"y": feeds["x"] * 2}

    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    made = run_row_by_row(network, (X, GROUP))({"x": x, "group": np.array([7])})
    assert np.array_equal(made["y"], 2 * x) and made["y"].dtype == np.float32
    assert seen == [(1, 7)] * 3
    heads = run_row_by_row(lambda feeds: {"heads": feeds["x"].reshape(-1, 1)}, (X,))({"x": x})
    assert np.array_equal(heads["heads"], x.reshape(-1, 1))


def test_a_graph_of_a_single_sample_runs_once_for_each() -> None:
    """The decoder of a recorded pipeline has a batch of 1."""
    latent = TensorEntry("latent", "latent", (1, 2))
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    picture = run_row_by_row(lambda feeds: {"image": 2 * feeds["latent"].reshape(1, 2)}, (latent,))({"latent": x})
    np.testing.assert_array_equal(picture["image"], 2 * x)
