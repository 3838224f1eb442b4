"""Many processes calibrate as one does: the same bytes, whoever follows which trajectory, and whoever dies."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fewstep.calibration import calibrate as calibrating
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.measure.workers import opening
from fewstep.measure.workers.in_order import Workers, in_order
from fewstep.measure.workers.job import do, order
from fewstep.measure.workers.pinned_bundle import pinned
from fewstep.measure.workers.processes import TRIES, Processes
from fewstep.plans.errors import UserError
from tests.calibration.test_calibrate import FIRST, contents, denoiser, write_bundle


def options(folder: Path, **changes: Any) -> CalibrateOptions:
    bundle = write_bundle(folder, denoiser())
    return replace(FIRST, bundle=bundle, target=("cpu-x86",), trajectories=5, **changes)


def calibrated(folder: Path, workers: Any = None, **changes: Any) -> dict[str, bytes]:
    asked = options(folder, **changes)
    calibrate(asked, workers=workers)
    return contents(asked.bundle)


class TwoArguments(Exception):
    """It is pickled, but what is pickled makes no error: only the message stands there."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


@dataclass(frozen=True)
class Square:
    """Items are numbers, or what else to do with the process."""

    folder: str

    def open(self, threads: int) -> Callable[[Any], Any]:
        def run(item: Any) -> Any:
            if item == "fail":
                raise UserError("this fails", "do not")
            if item == "die" or (item == "die once" and not os.path.exists(f"{self.folder}/died")):
                Path(self.folder, "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "sleep":
                time.sleep(0.5)
            if item == "lock":
                return threading.Lock()  # which no pickle holds
            if item == "raise":
                raise TwoArguments("of two", "arguments")
            os.write(1, b"what libraries print is no answer")
            return (0 if isinstance(item, str) else item**2, threads, os.getpid())

        return run


@dataclass(frozen=True)
class Pickled(Square):
    """Counts how often it is pickled."""

    times: ClassVar[list[int]] = []

    def __getstate__(self) -> dict[str, Any]:
        self.times.append(1)
        return dict(vars(self))


def test_workers_give_bitwise_what_one_process_gives(tmp_path: Path) -> None:
    alone = calibrated(tmp_path / "alone")
    with ThreadPoolExecutor(3) as threads:
        assert calibrated(tmp_path / "threads", threads) == alone
    with Processes(2) as processes:
        assert calibrated(tmp_path / "processes", processes) == alone


def test_workers_end_before_bodies_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of a large network has the weights in memory."""
    real, events = calibrating.judging_course, []
    end = Processes.shutdown
    monkeypatch.setattr(Processes, "shutdown", lambda self, **how: events.append("ended") or end(self, **how))
    monkeypatch.setattr(calibrating, "judging_course", lambda *task: events.append("judging") or real(*task))
    calibrate(replace(options(tmp_path / "bundle"), workers=1))
    assert events == ["ended", "judging"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, count: int) -> None:
    alone = calibrated(tmp_path / "alone")
    asked = options(tmp_path / "by_option")
    calibrate(replace(asked, workers=count))
    assert contents(asked.bundle) == alone


@pytest.mark.slow
def test_the_standard_pool_of_processes_does_it_too(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert calibrated(tmp_path / "pool", pool) == calibrated(tmp_path / "alone")


def test_results_come_in_order_and_one_that_dies_costs_its_item_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = [3, "die once", 4, 5, 6, 7]
    with Processes(2) as workers:
        found = list(in_order(Square(str(tmp_path)), items, Workers(workers, workers.count)))
    assert [square for square, _, _ in found] == [9, 0, 16, 25, 36, 49]
    assert {threads for _, threads, _ in found} == {workers.threads}
    assert len({process for _, _, process in found}) <= 3  # two, and one in the place of the one that died
    assert caplog.messages == ["a worker was killed (signal 9): another one takes its place, and what it was doing"]


@pytest.mark.slow
def test_an_item_that_kills_each_worker_is_an_error(tmp_path: Path) -> None:
    with Processes(1) as workers, pytest.raises(UserError, match=f"killed .signal 9., {TRIES} times at the same place"):
        list(in_order(Square(str(tmp_path)), [1, "die", 2], Workers(workers, workers.count)))


def test_an_error_of_the_job_is_raised_as_it_is(tmp_path: Path) -> None:
    with Processes(1) as workers, pytest.raises(UserError) as failure:
        list(in_order(Square(str(tmp_path)), [1, "fail", 2], Workers(workers, workers.count)))
    assert (failure.value.what, failure.value.fix) == ("this fails", "do not")


def test_a_job_is_sent_to_a_process_once(tmp_path: Path) -> None:
    """It may hold a table of ranges and samples. Once more it is pickled for its name."""
    Pickled.times.clear()
    with Processes(1) as workers:
        assert [found[0] for found in in_order(Pickled(str(tmp_path)), range(5), Workers(workers, workers.count))] == [
            0,
            1,
            4,
            9,
            16,
        ]
        assert [found[0] for found in in_order(Square(str(tmp_path)), [6], Workers(workers, workers.count))] == [36]
    assert len(Pickled.times) == 2


@pytest.mark.slow
def test_what_does_not_travel_is_an_error_and_the_next_item_is_done(tmp_path: Path) -> None:
    told = order(Square(str(tmp_path)), 1)
    with Processes(1) as workers:
        with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
            workers.submit(do, told, lambda: None).result(timeout=60)
        with pytest.raises((TypeError, pickle.PicklingError), match="lock"):
            workers.submit(do, told, "lock").result(timeout=60)
        with pytest.raises(RuntimeError, match="TwoArguments: of two"):  # whose class takes others: its text travels
            workers.submit(do, told, "raise").result(timeout=60)
        answer = workers.submit(do, told, 3).result(timeout=60)
    assert answer[0] == 9


def test_workers_that_do_not_start_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    with Processes(1) as workers:
        answer = workers.submit(do, order(Square(str(tmp_path)), 1), 2)
        with pytest.raises(UserError, match="a worker does not start .No such file or directory.; give fewer workers"):
            answer.result(timeout=60)


def test_a_machine_that_starts_no_thread_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(UserError, match="no worker starts .can't start new thread.; give fewer workers"):
        Processes(2).submit(do, order(Square(str(tmp_path)), 1), 2)


def test_processes_call_any_function() -> None:
    with Processes(1) as workers:
        assert list(workers.map(pow, (2, 3), (3, 2))) == [8, 9]


def test_a_cluster_gives_bitwise_what_one_process_gives(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        spread = calibrated(tmp_path / "cluster", cluster=cluster.scheduler_address)
    assert spread == calibrated(tmp_path / "alone")


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed")
    monkeypatch.setattr(opening, "CONNECTING", 0.2)
    with pytest.raises(UserError, match="no scheduler answers at tcp://127.0.0.1:9 .*; start one"):
        calibrate(options(tmp_path / "bundle", cluster="tcp://127.0.0.1:9"))
    with pytest.raises(UserError, match="--workers and --cluster together"):
        options(tmp_path / "other", workers=1, cluster="tcp://127.0.0.1:9")


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot wait for a pipe with a limit")
def test_a_worker_that_hangs_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Processes(1, patience=0.2) as workers:
        ((_, _, pid),) = in_order(Square(str(tmp_path)), ("sleep",), Workers(workers, workers.count))
    assert f"worker, process {pid}, is at one call for 0 seconds: it is slow, or hangs" in caplog.text


def test_a_pool_that_breaks_is_one_line(tmp_path: Path) -> None:
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
        pytest.raises(UserError, match=r"the workers are gone .*; start them, and run the command again"),
    ):
        list(in_order(Square(str(tmp_path)), ["die", 1], Workers(pool, 1)))


def test_what_is_begun_ends_with_the_block(tmp_path: Path) -> None:
    before = threading.active_count()
    with Processes(1) as workers:
        answers = [workers.submit(do, order(Square(str(tmp_path)), 1), number) for number in range(2000)]
        answers[0].result()
    assert answers[-1].cancelled()
    assert threading.active_count() == before


def test_an_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UserError("what", "fix")))
    assert (error.what, error.fix, str(error)) == ("what", "fix", "what; fix")


def test_a_number_of_workers_below_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--workers is -1"):
        calibrate(replace(options(tmp_path / "bundle"), workers=-1))


@pytest.mark.parametrize("count", [0, -1])
def test_no_processes_are_refused_and_do_not_hang(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} processes; give 1 or more"):
        Processes(count)


def test_a_number_in_the_place_of_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="workers is 3; give a concurrent.futures.Executor, or a number as an option"):
        calibrate(options(tmp_path / "bundle"), workers=3)  # type: ignore[arg-type]


def test_a_bundle_that_changed_is_named(tmp_path: Path) -> None:
    bundle = options(tmp_path / "bundle").bundle
    before = pinned(bundle)
    assert before.folder() == bundle.resolve()
    (bundle / "manifest.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(UserError, match="bundle was changed meanwhile; run the command again"):
            before.folder()
        (bundle / "manifest.json").unlink(missing_ok=True)
