"""The threads of an item are independent of the workers: the number of workers changes no bit on any machine."""

import platform
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.checkpoint import open_checkpoint
from fewstep.graph.graph import Graph, Node
from fewstep.measure.workers import setup
from fewstep.measure.workers.setup import WorkerSetup, start_workers
from fewstep.plans.errors import UserError
from fewstep.runtime.machine.cpu import default_threads
from tests.calibration.test_calibrate import FIRST, SHAPE, contents, denoiser, task_of, write_bundle

WIDTH = 64


def of_one_axis() -> Graph:
    """The tiny denoiser with Conv1d 1 -> 64 -> 64 -> 1 over its pixels twice in a row: on x86, onnxruntime rounds a
    length of 128 differently on two threads.
    """
    rng, plain = np.random.default_rng(0), denoiser()
    widths = (1, WIDTH, WIDTH, 1)
    constants: dict[str, Any] = {
        f"w{i}": (rng.standard_normal((out, into, 3)) / (3 * into) ** 0.5).astype(np.float32)
        for i, (into, out) in enumerate(zip(widths[:-1], widths[1:]))
    }
    constants |= {"flat": np.array([-1, 1, 64]), "square": np.array([-1, *SHAPE]), "one": np.array([-1, 1, 1])}
    pads = {"pads": [1, 1]}
    nodes = (
        Node("Reshape", ("x", "flat"), ("once",)),
        Node("Concat", ("once", "once"), ("f",), {"axis": 2}),
        Node("Reshape", ("row", "one"), ("r",)),
        Node("Conv", ("f", "w0"), ("h0",), pads),
        Node("Relu", ("h0",), ("a0",)),
        Node("Conv", ("a0", "w1"), ("h1",), pads),
        Node("Mul", ("h1", "r"), ("m1",)),
        Node("Relu", ("m1",), ("a1",)),
        Node("Conv", ("a1", "w2"), ("h2",), {**pads, "strides": [2]}),
        Node("Reshape", ("h2", "square"), ("v",)),
    )
    return replace(plain, nodes=nodes, constants=constants)


def made(folder: Path, by: Executor | None = None, **changes: Any) -> dict[str, bytes]:
    """Return the files of a calibration besides its manifest."""
    bundle = write_bundle(folder, of_one_axis())
    asked = replace(FIRST, bundle=bundle, target=("cpu-x86",), trajectories=5, **changes)
    calibrate(asked, workers=by)
    return {name: content for name, content in contents(bundle).items() if name != "manifest.json"}


def test_threads_and_not_workers_decide_what_comes_out(tmp_path: Path) -> None:
    """Alone or with any number of workers. Two threads give other bits, so this test would notice them."""
    of_one, of_two = made(tmp_path / "one", threads=1), made(tmp_path / "two", threads=2)
    for count, threads, expected in ((1, 1, of_one), (3, 1, of_one), (2, 2, of_two)):
        with ThreadPoolExecutor(count) as pool:
            folder = tmp_path / f"{count}-{threads}"
            assert made(folder, pool, threads=threads) == expected
    if platform.machine() == "x86_64":
        assert of_one != of_two


@pytest.mark.slow
@pytest.mark.parametrize("threads", [0, 2])
def test_so_it_is_with_processes(tmp_path: Path, threads: int) -> None:
    alone = made(tmp_path / "alone", threads=threads or 1)
    for count in (1, 2):
        assert made(tmp_path / str(count), workers=count, threads=threads) == alone


def test_an_item_has_one_thread_unless_more_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(setup, "usable_threads", lambda: 64)
    asked = []
    for count, threads in ((2, 0), (64, 0), (8, 0), (8, 8), (9, 8)):
        with start_workers(WorkerSetup(count, threads)) as workers:
            assert workers is not None
            asked.append((workers.count, workers.threads))
    assert asked == [(2, 1), (64, 1), (8, 1), (8, 8), (9, 8)]
    assert caplog.messages == [
        "9 workers of 8 threads wait for each other on 64 cores: --workers 8 is as fast, in less memory"
    ]


def test_counts_of_other_threads_are_not_gone_on_with(tmp_path: Path) -> None:
    task = task_of(replace(FIRST, bundle=write_bundle(tmp_path / "bundle", of_one_axis()), target=("cpu-x86",)))
    names = {threads: open_checkpoint(task, threads).name for threads in (0, 1, 2, 3)}
    assert len({names[threads] for threads in (1, 2, 3)}) == 3
    assert names[0] == open_checkpoint(task, default_threads()).name


def test_threads_below_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="-1 threads on"):
        made(tmp_path / "bundle", threads=-1)
