"""ONNX Runtime with a row of the batch per thread: bitwise each row alone, and threads that share the rows."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, get_ident

import numpy as np
import pytest

from fewstep.models import ready
from fewstep.plans.errors import UserError
from fewstep.report.choosing.engines import ROWS
from fewstep.runtime import load
from fewstep.runtime.backends import Arrays
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, Session
from fewstep.runtime.backends.onnxruntime_rows import OnnxRuntimeRows, ParallelRows
from fewstep.runtime.backends.openvino_agreement import random_feeds
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine.cpu import usable_cores
from tests.refusals import refuses

pytestmark = pytest.mark.skipif(usable_cores() < 2, reason="no second thread")


def parallel(graph: object, threads: int = 2) -> ParallelRows:
    """Return a `ParallelRows` that runs the rows of input x in parallel; all rows share the other inputs."""
    return ParallelRows(graph, frozenset("x"), threads, ThreadPoolExecutor(threads - 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_each_row_has_the_bits_of_a_call_with_this_row_alone_on_one_thread(rows: int) -> None:
    """The shipped bundle's bodies take a range group, which has no batch axis."""
    bundle, body = open_bundle(ready.fashion_mnist()), "int8-cpu-x86"
    feeds = random_feeds(bundle.body(body).graph, {"batch": rows}, seed=3)
    alone, whole = OnnxRuntime(threads=1).load(bundle, body), OnnxRuntimeRows(threads=2).load(bundle, body)
    assert isinstance(whole, ParallelRows) and "group" in feeds.keys() - whole.split
    expected = [
        alone({name: value[row : row + 1] if name in whole.split else value for name, value in feeds.items()})["output"]
        for row in range(rows)
    ]
    np.testing.assert_array_equal(whole(feeds)["output"], np.concatenate(expected))


def test_samples_are_those_of_one_thread_with_guidance_and_an_odd_number_of_rows() -> None:
    path, settings = ready.fashion_mnist(), {"condition": {"class": [1, 2, 3]}, "guidance": 2.0}
    each = [
        load(path, "int8", backend=backend).sample("ddim:2", [4, 5, 6], **settings)  # type: ignore[arg-type]
        for backend in (create_backend(ROWS, 2), OnnxRuntime(threads=1))
    ]
    np.testing.assert_allclose(*each, atol=1e-5)  # onnxruntime's rows of a batch may round differently


def test_rows_run_at_the_same_time_in_the_calling_thread_and_another() -> None:
    """Each row waits for another one, so this passes only if two run at once."""
    meeting, threads = Barrier(2, timeout=20), set[int]()

    def graph(feeds: Arrays) -> Arrays:
        threads.add(get_ident())
        meeting.wait()
        return {"y": feeds["x"] + feeds["shift"]}

    feeds = {"x": np.arange(4.0)[:, None], "shift": np.array([10.0])}
    np.testing.assert_array_equal(parallel(graph)(feeds)["y"], [[10.0], [11.0], [12.0], [13.0]])
    assert len(threads) == 2 and get_ident() in threads


def test_many_callers_share_the_threads_and_each_gets_its_own_rows() -> None:
    graph = parallel(lambda feeds: {"y": 2 * feeds["x"]}, threads=3)
    with ThreadPoolExecutor(8) as pool:
        given = [np.arange(count)[:, None] + 100 * count for count in (1, 2, 3, 7) * 16]
        for x, made in zip(given, pool.map(lambda x: graph({"x": x})["y"], given), strict=True):
            np.testing.assert_array_equal(made, 2 * x)


@pytest.mark.parametrize("error", [UserError("no memory", "free some"), IndexError("inside"), KeyboardInterrupt()])
@pytest.mark.parametrize("bad", [0, 1])
def test_a_row_that_fails_or_is_interrupted_ends_the_call_and_no_other_row_begins(
    error: BaseException, bad: int
) -> None:
    begun, meeting = [], Barrier(2, timeout=20)

    def graph(feeds: Arrays) -> Arrays:
        begun.append(int(feeds["x"][0]))
        if len(begun) <= 2:
            meeting.wait()  # both threads have a row
        raise error

    with pytest.raises(type(error)):
        parallel(graph)({"x": np.arange(50) + bad})
    assert len(begun) == 2


def test_inputs_of_different_lengths_are_refused_with_the_shapes_of_the_whole_call(tiny_bundle: Path) -> None:
    network = OnnxRuntimeRows(threads=2).load(open_bundle(tiny_bundle), "float32")
    with refuses(("x [2, 1, 4, 4]", "row [3, 1]")):
        network({"x": np.ones((2, 1, 4, 4), np.float32), "row": np.ones((3, 1), np.float32)})


@pytest.mark.parametrize("threads, name", [(1, "float32"), (2, "prologue")])
def test_a_single_thread_and_a_prologue_run_as_usual(tiny_bundle: Path, threads: int, name: str) -> None:
    assert isinstance(OnnxRuntimeRows(threads=threads).load(open_bundle(tiny_bundle), name), Session)
