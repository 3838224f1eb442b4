"""Many processes calibrate like one: the same bytes, whichever worker follows which trajectory, and whichever dies."""

import os
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fewstep.calibration import float_runs
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.measure.workers import setup
from fewstep.measure.workers.job import Workers, map_in_order, run_item
from fewstep.measure.workers.pinned_bundle import pin_bundle
from fewstep.measure.workers.process_pool import TRIES, ProcessPool
from fewstep.plans.errors import UserError
from tests.calibration.test_calibrate import FIRST, contents, denoiser, write_bundle
from tests.measure.workers.square_job import Square
from tests.refusals import refuses

pytestmark = pytest.mark.slow


def options(folder: Path, **changes: Any) -> CalibrateOptions:
    bundle = write_bundle(folder, denoiser())
    return replace(FIRST, bundle=bundle, target=("cpu-x86",), trajectories=5, **changes)


def calibrate_by(folder: Path, workers: Any = None, **changes: Any) -> dict[str, bytes]:
    asked = options(folder, **changes)
    calibrate(asked, workers=workers)
    return contents(asked.bundle)


def done(folder: Path, items: Sequence[Any], executor: Executor, count: int = 1) -> list[Any]:
    return list(map_in_order(Square(str(folder)), items, Workers(executor, count)))


def question_of(folder: Path, item: Any) -> tuple[Any, ...]:
    """Return the call of a worker for an item."""
    return run_item, pickle.dumps(Square(str(folder))), 1, item


def test_workers_give_bitwise_what_one_process_gives(tmp_path: Path) -> None:
    alone = calibrate_by(tmp_path / "alone")
    with ThreadPoolExecutor(3) as threads:
        assert calibrate_by(tmp_path / "threads", threads) == alone
    with ProcessPool(2) as processes:
        assert calibrate_by(tmp_path / "processes", processes) == alone


def test_workers_end_before_bodies_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of a large network has the weights in memory."""
    real, events = float_runs.record_judging_run, []
    end = ProcessPool.shutdown
    monkeypatch.setattr(ProcessPool, "shutdown", lambda self, **how: events.append("ended") or end(self, **how))
    monkeypatch.setattr(float_runs, "record_judging_run", lambda *task: events.append("judging") or real(*task))
    calibrate(replace(options(tmp_path / "bundle"), workers=1))
    assert events == ["ended", "judging"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, count: int) -> None:
    alone = calibrate_by(tmp_path / "alone")
    asked = options(tmp_path / "by_option")
    calibrate(replace(asked, workers=count))
    assert contents(asked.bundle) == alone


@pytest.mark.slow
def test_the_standard_pool_of_processes_does_it_too(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert calibrate_by(tmp_path / "pool", pool) == calibrate_by(tmp_path / "alone")


def test_a_job_is_opened_once_and_closed_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two large networks are too many."""
    opened, real = list[str](), Square.open
    monkeypatch.setattr(Square, "open", lambda self, threads: opened.append(self.folder) or real(self, threads))
    assert [run_item(pickle.dumps(Square(folder)), 1, 3)[0] for folder in ("a", "a", "b", "b", "a")] == [9] * 5
    assert opened == ["a", "b", "a"]


def test_results_come_in_order_and_one_that_dies_costs_its_item_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ProcessPool(2) as workers:
        found = done(tmp_path, [3, "die once", 4, 5, 6, 7], workers, 2)
    assert [square for square, _, _ in found] == [9, 0, 16, 25, 36, 49]
    assert {threads for _, threads, _ in found} == {workers.threads}
    assert len({process for _, _, process in found}) <= 3  # two, and one in the place of the one that died
    assert caplog.messages == ["a worker was killed (signal 9): a new worker repeats its call"]


@pytest.mark.slow
def test_an_item_that_kills_each_worker_is_an_error(tmp_path: Path) -> None:
    with (
        ProcessPool(1) as workers,
        pytest.raises(UserError, match=f"killed .signal 9., {TRIES} times in the same call"),
    ):
        done(tmp_path, [1, "die", 2], workers)


def test_an_error_of_the_job_is_raised_as_it_is(tmp_path: Path) -> None:
    with ProcessPool(1) as workers, pytest.raises(UserError) as failure:
        done(tmp_path, [1, "fail", 2], workers)
    assert (failure.value.what, failure.value.fix) == ("this fails", "do not")


@pytest.mark.slow
def test_what_does_not_travel_is_an_error_and_the_next_item_is_done(tmp_path: Path) -> None:
    errors = {"TwoArguments: of two": "raise", "lock": "lock", "lambda": lambda: None}
    with ProcessPool(1) as workers:
        for said, item in errors.items():  # the class of the first takes other arguments: its text travels
            with pytest.raises((AttributeError, TypeError, RuntimeError, pickle.PicklingError), match=said):
                workers.submit(*question_of(tmp_path, item)).result(timeout=60)
        assert done(tmp_path, [3], workers)[0][0] == 9


def test_workers_that_do_not_start_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    with ProcessPool(1) as workers:
        answer = workers.submit(*question_of(tmp_path, 2))
        with refuses("No such file or directory", "fewer workers"):
            answer.result(timeout=60)


def test_a_machine_that_starts_no_thread_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse_thread)
    with refuses("can't start new thread", "fewer workers"):
        ProcessPool(2).submit(*question_of(tmp_path, 2))


def test_processes_call_any_function() -> None:
    with ProcessPool(1) as workers:
        assert list(workers.map(pow, (2, 3), (3, 2))) == [8, 9] and workers.submit(pow, 2, 3, mod=5).result() == 3


def test_a_cluster_gives_bitwise_what_one_process_gives(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        spread = calibrate_by(tmp_path / "cluster", cluster=cluster.scheduler_address)
    assert spread == calibrate_by(tmp_path / "alone")


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed")
    monkeypatch.setattr(setup, "SCHEDULER_TIMEOUT", 0.2)
    with refuses("tcp://127.0.0.1:9", "start one"):
        calibrate(options(tmp_path / "bundle", cluster="tcp://127.0.0.1:9"))


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot wait for a pipe with a limit")
def test_a_worker_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    waits: list[float] = []
    slow = SimpleNamespace(register=lambda *_: None, poll=lambda wait: waits.append(wait / 1000) or len(waits) > 3)
    monkeypatch.setattr("select.poll", lambda: slow)
    with ProcessPool(1, patience=2) as workers:
        pid = workers.submit(os.getpid).result()
    for waited in accumulate(waits[:3]):
        assert (
            f"worker, process {pid}, has been in one call for {waited:.0f} seconds: it is slow, or hangs" in caplog.text
        )


def test_a_pool_that_breaks_is_one_line(tmp_path: Path) -> None:
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
        refuses("workers", "run the command again"),
    ):
        done(tmp_path, ["die", 1], pool)


def test_what_is_begun_ends_with_the_block(tmp_path: Path) -> None:
    before = threading.active_count()
    with ProcessPool(1) as workers:
        answers = [workers.submit(*question_of(tmp_path, number)) for number in range(2000)]
        answers[0].result()
    assert answers[-1].cancelled()
    assert threading.active_count() == before


def test_an_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UserError("what", "fix")))
    assert (error.what, error.fix, str(error)) == ("what", "fix", "what; fix")


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (lambda folder: options(folder, workers=-1), "--workers is -1"),
        (
            lambda folder: options(folder, workers=1, cluster="tcp://127.0.0.1:9"),
            "--workers and --cluster cannot be combined",
        ),
        (lambda folder: calibrate(options(folder), workers=3), "workers cannot be 3; .*Executor"),  # type: ignore[arg-type]
        (lambda folder: ProcessPool(0), "0 processes"),
        (lambda folder: ProcessPool(-1), "-1 processes"),
    ],
)
def test_workers_that_cannot_be_are_refused(refused: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        refused(tmp_path / "bundle")


def test_a_bundle_that_changed_is_named(tmp_path: Path) -> None:
    bundle = options(tmp_path / "bundle").bundle
    before = pin_bundle(bundle)
    assert before.check_folder() == bundle.resolve()
    (bundle / "manifest.json").write_text("{}")
    for _ in range(2):
        with refuses("bundle was changed", "run the command again"):
            before.check_folder()
        (bundle / "manifest.json").unlink(missing_ok=True)
