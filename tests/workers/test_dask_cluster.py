"""A real cluster of Dask on this machine: its workers are processes, of which one is killed on the way."""

import asyncio
import os
import pickle
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fewstep.calibration import counting_job
from fewstep.calibration.calibrate import calibrate
from fewstep.evaluation.report import open_report
from fewstep.evaluation.report.measure import measure
from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.machine import cache
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import MANIFEST, open_bundle
from fewstep.workers import job as jobs
from fewstep.workers.dask_cluster import DaskWorkers, keep_piece, missing
from fewstep.workers.in_order import in_order
from fewstep.workers.job import order
from fewstep.workers.sent_bundle import SentBundle, needed, sent
from tests.calibration.test_calibrate import contents
from tests.evaluation.report.test_report_workers import arrays, figures
from tests.evaluation.report.test_report_workers import asked as report_options
from tests.workers.test_workers import Square, options

TRAJECTORIES = 12


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two workers of one thread, somewhere else than where the tests are, with a cache folder of their own."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    elsewhere, here = tmp_path_factory.mktemp("elsewhere"), Path.cwd()
    # A worker that replaces a killed one starts in the middle of a test, which has a cache folder of its own.
    environment = {
        "XDG_CACHE_HOME": str(elsewhere / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    os.chdir(elsewhere)
    try:
        with distributed.LocalCluster(
            2, threads_per_worker=1, processes=True, dashboard_address=None, env=environment
        ) as made:
            os.chdir(here)
            yield made
    finally:
        os.chdir(here)


def wait_for_both(cluster: Any) -> None:
    """A worker that replaces a killed one starts in the folder that the tests are in just then."""
    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=300)


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(cluster: Any, tmp_path: Path) -> None:
    alone, spread = (replace(options(tmp_path / name), trajectories=TRAJECTORIES) for name in ("alone", "spread"))
    calibrate(alone)
    killed: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "trajectories" and not killed:
            with cluster.get_client() as client:
                killed.extend(sorted(client.run(os.getpid).values())[:1])
            os.kill(killed[0], signal.SIGKILL)

    calibrate(replace(spread, dask=cluster.scheduler_address), progress)
    assert killed and contents(spread.bundle) == contents(alone.bundle)
    wait_for_both(cluster)


@pytest.mark.slow
def test_batches_of_a_report_survive_their_worker_too(cluster: Any, tmp_path: Path) -> None:
    asked = report_options(tmp_path / "tiny")
    alone, samples = measure(open_report(asked), asked)
    killed: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage.startswith("teacher ") and not killed:
            with cluster.get_client() as client:
                killed.extend(sorted(client.run(os.getpid).values())[:1])
            os.kill(killed[0], signal.SIGKILL)

    asked = replace(asked, dask=cluster.scheduler_address)
    spread, others = measure(open_report(asked), asked, progress)
    assert killed and (figures(spread), arrays(others)) == (figures(alone), arrays(samples))
    wait_for_both(cluster)


@pytest.mark.slow
def test_a_cluster_fits_the_same_plan(cluster: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    few = {"steps": 2, "seeds": 16, "selection_seeds": 16, "judge_seeds": 16, "iterations": 1, "threads": 1}
    alone = FitOptions(tiny_bundle, guidance=2.0, output=tmp_path / "alone.json", **few)  # type: ignore[arg-type]
    spread = replace(alone, output=tmp_path / "spread.json", dask=cluster.scheduler_address)
    assert fit(alone).plan == fit(spread).plan is not None
    assert (tmp_path / "alone.json").read_bytes() == (tmp_path / "spread.json").read_bytes()


@pytest.mark.slow
def test_a_bundle_that_workers_do_not_see_is_sent_once(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, spread = (replace(options(tmp_path / name), trajectories=5) for name in ("alone", "spread"))
    calibrate(alone)
    monkeypatch.chdir(tmp_path)
    seen = SentBundle(Path("spread"), sent(spread.bundle).digest)  # a path that leads nowhere where the workers are
    monkeypatch.setattr(counting_job, "sent", lambda _: seen)
    pieces, real = list[str](), SentBundle.pieces

    def counted(bundle: SentBundle) -> Iterator[Any]:
        for piece in real(bundle):
            pieces.append(piece.name)
            yield piece

    monkeypatch.setattr(SentBundle, "pieces", counted)
    manifest = open_bundle(spread.bundle).manifest
    with DaskWorkers(cluster.scheduler_address) as workers:
        calibrate(spread, workers=workers)
        assert contents(spread.bundle) == contents(alone.bundle)
        assert pieces == [*needed(manifest), MANIFEST]  # once, though both workers lacked it


@pytest.mark.slow
def test_errors_of_the_job_and_of_the_cluster_are_told_apart(cluster: Any, tmp_path: Path) -> None:
    job = Square(str(tmp_path), sent(options(tmp_path / "bundle").bundle))
    with DaskWorkers(cluster.scheduler_address) as workers:
        with pytest.raises(UserError) as failure:
            list(in_order(job, [1, "fail", 2], workers))
        assert (failure.value.what, failure.value.fix) == ("this fails", "do not")
        with pytest.raises(UserError, match="the Dask cluster failed .*all those workers died.*read the workers' logs"):
            list(in_order(job, ["die"], workers))
        assert [square for square, _, _ in in_order(job, [3, 4], workers)] == [9, 16]


@pytest.mark.slow
def test_a_worker_that_dies_once_its_result_is_fetched_changes_nothing(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler then calls the result lost, between its arrival and the reading of its status."""
    lost = list[Any]()
    with cluster.get_client() as client:
        real = client._gather

        async def gathered(futures: Any, *given: Any, **named: Any) -> Any:
            results = await real(futures, *given, **named)
            for future in futures:
                client._handle_lost_data(future.key)
                lost.append(future.status)
            return results

        monkeypatch.setattr(client, "_gather", gathered)
        with DaskWorkers(client) as workers:
            assert [square for square, _, _ in in_order(Square(""), [3, 4], workers)] == [9, 16]
    assert set(lost) == {"lost"}


class Asked(Future[Any]):
    """A future of Dask is awaited."""

    def __await__(self) -> Generator[None, None, Any]:
        yield from ()
        return self.result()


class Loop:
    """Calls back once the future is done."""

    def add_callback(self, function: Callable[..., Any], asked: Asked, answer: "Future[Any]") -> None:
        asked.add_done_callback(lambda _: asyncio.run(function(asked, answer)))


class Client:
    """A cluster that fails at all it is asked."""

    loop = Loop()

    def __init__(self, error: Exception, waits: bool = True) -> None:
        self.error, self.waits, self.closed = error, waits, False
        self.asked = list[Asked]()

    def wait_for_workers(self, count: int, timeout: float) -> None:
        if not self.waits:
            raise self.error

    def submit(self, *call: Any, pure: bool) -> Asked:
        self.asked.append(Asked())
        return self.asked[-1]

    def run(self, *call: Any, **where: Any) -> Any:
        if call[0] is missing:
            raise self.error
        return {}

    def register_plugin(self, plugin: Any, name: str) -> None:
        pass

    def nthreads(self) -> dict[str, int]:
        raise self.error

    def close(self) -> None:
        self.closed = True


def test_what_a_cluster_raises_is_one_line() -> None:
    pytest.importorskip("distributed", reason="distributed is not installed")
    client = Client(OSError("in <TCP>: Stream is closed\nmore"))
    with DaskWorkers(client) as workers:
        said = "the Dask cluster failed .in <TCP>: Stream is closed.; read the workers' logs"
        with pytest.raises(UserError, match=said):
            workers.deliver(order(Square(""), 1))
        with pytest.raises(UserError, match=said):
            workers.count  # noqa: B018 - it asks the cluster
        answer, other = (workers.submit(order(Square(""), 1), item) for item in (1, 2))
        error = RuntimeError("Error during deserialization")
        error.__cause__ = ModuleNotFoundError("No module named 'fewstep'")
        client.asked[0].set_exception(error)
        with pytest.raises(UserError, match="the Dask cluster failed .No module named 'fewstep'."):
            answer.result(timeout=1)
        assert other.cancel() and client.asked[1].cancelled()
    assert not client.closed  # it was given


def test_each_cache_folder_that_lacks_a_bundle_is_sent_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed")
    told = order(Square("", sent(options(tmp_path / "bundle").bundle)), 1)
    places = {"tcp://one:1": "/a", "tcp://one:2": "/b", "tcp://one:3": "/b", "tcp://two:1": "/a", "tcp://three:1": None}
    receivers = list[list[str]]()

    def run(task: Callable[..., Any], *given: Any, workers: list[str] | None = None, on_error: str = "raise") -> Any:
        if task is keep_piece:
            assert workers is not None
            receivers.append(workers)
        return places if task is missing else {}

    client = Client(OSError())
    monkeypatch.setattr(client, "run", run)
    with DaskWorkers(client) as workers:
        workers.deliver(told)
    assert receivers == [["tcp://one:1", "tcp://one:3", "tcp://two:1"]] * len(list(told.job.bundle.pieces()))


class Counting(Client):
    """A cluster of one worker, this process, that counts the bytes that reach it."""

    def __init__(self, pickled: Callable[[Any], bytes]) -> None:
        super().__init__(OSError())
        self.pickled, self.bytes = pickled, 0

    def nthreads(self) -> dict[str, int]:
        return {"tcp://one:1": 1}

    def run(self, *call: Any, workers: list[str] | None = None, on_error: str = "raise") -> Any:
        return {"tcp://one:1": self._done(call)}

    def register_plugin(self, plugin: Any, name: str) -> None:
        self.bytes += len(content := self.pickled(plugin))
        pickle.loads(content).setup(None)

    def submit(self, *call: Any, pure: bool) -> Asked:
        answer = Asked()
        answer.set_result(self._done(call))
        return answer

    def _done(self, call: tuple[Any, ...]) -> Any:
        self.bytes += len(content := pickle.dumps(call))
        function, *given = pickle.loads(content)
        return function(*given)


def test_a_job_is_sent_once_and_again_to_a_worker_that_lost_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight items of a job that takes a megabyte cost one megabyte. A worker that starts again costs another one."""
    pytest.importorskip("distributed", reason="distributed is not installed")
    monkeypatch.setattr(jobs, "_KEPT", {})
    cloudpickle = pytest.importorskip("cloudpickle")
    client, job = Counting(cloudpickle.dumps), Square("/" * 10**6, sent(options(tmp_path / "bundle").bundle))
    with DaskWorkers(client) as workers:
        assert [square for square, _, _ in in_order(job, range(8), workers)] == [each**2 for each in range(8)]
        assert 1e6 < client.bytes < 1.1e6
        jobs._KEPT.clear()
        assert [square for square, _, _ in in_order(job, range(8), workers)] == [each**2 for each in range(8)]
        assert 2e6 < client.bytes < 2.2e6


def test_a_client_that_finds_no_workers_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    client = Client(TimeoutError("Only 0/1 workers arrived after 30"), waits=False)
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: client)
    with pytest.raises(UserError, match="no Dask cluster with workers at tcp://here:1 .Only 0/1 workers arrived"):
        DaskWorkers("tcp://here:1")
    assert client.closed


def test_pieces_are_kept_under_the_hash_of_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("fewstep.workers.sent_bundle.PIECE", 1000)
    bundle = sent(options(tmp_path / "bundle").bundle)
    pieces = list(bundle.pieces())
    for piece in pieces:
        piece.keep()
    there = replace(bundle, path=tmp_path / "gone").folder()
    assert there == cache.path("bundles", bundle.digest[:32]) and len(pieces) > 4
    open_bundle(there).graph(open_bundle(there).manifest.bodies["float32"].graph)
    pieces[0].keep()
    with pytest.raises(UserError, match="graphs/prologue.onnx changed while it was sent"):
        next(replace(each, content=b"x" * len(each.content)) for each in pieces if each.expected).keep()


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed")
    monkeypatch.setattr("fewstep.workers.dask_cluster.SECONDS", 1)
    with pytest.raises(UserError, match=r"no Dask cluster with workers at tcp://127.0.0.1:1 .*; start it: dask sch"):
        DaskWorkers("tcp://127.0.0.1:1")


def test_without_distributed_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install 'fewstep\[dask\]'"):
        DaskWorkers("tcp://127.0.0.1:1")
