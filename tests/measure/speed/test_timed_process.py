"""Contenders take turns until it is clear which is faster; a child that dies gives one line."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, count, repeat
from pathlib import Path
from time import process_time, sleep

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fewstep.measure.speed import contender_process
from fewstep.measure.speed import duel as dueling
from fewstep.measure.speed.contender import OnBackend, TimedContender, TimedGraph
from fewstep.measure.speed.duel import Turn, run_duel
from fewstep.measure.speed.machine import this_machine
from fewstep.measure.speed.race import Turns, run_race
from fewstep.measure.speed.timed_process import TimedProcess
from fewstep.plans.errors import UserError
from fewstep.runtime.machine.cpu import usable_cores
from tests.measure.speed.child_calls import calls, far_away, filling, numbers, refusing
from tests.refusals import refuses


def test_a_contender_runs_in_another_process_and_sleeps_between_turns() -> None:
    with TimedProcess("ours", partial(calls, pid=os.getpid, work=partial(numbers, 10**5), spent=process_time)) as ours:
        assert ours.run_call("pid") != os.getpid()
        (wall, processor), *_ = ours.run_turn(0.0, "work")
        assert 0 < processor <= 1.5 * wall and 0 < ours.median_milliseconds("work") < 1000
        before = ours.run_call("spent")
        sleep(0.1)
        assert ours.run_call("spent") - before < 0.05 and ours.peak_mib() > 5


def test_first_calls_are_not_counted_unless_one_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contender_process, "_CALLS", {"": lambda: None})
    times = iter([(0.03, 9.0), (0.03, 9.0), (0.1, 1.0), (0.2, 2.0), (0.3, 3.0)])
    monkeypatch.setattr(contender_process, "_time_call", lambda call: next(times))
    assert contender_process.run_turn("", 0.25) == [(0.1, 1.0), (0.2, 2.0)]
    monkeypatch.setattr(contender_process, "_time_call", lambda call: (2.0, 4.0))
    assert contender_process.run_turn("", 0.25) == [(2.0, 4.0)]


def test_failures_of_a_contender_are_one_line() -> None:
    with pytest.raises(UserError, match="^no such engine; install it$"):
        TimedProcess("ours", refusing)
    with refuses("ours ran out of memory", "end other programs"):
        TimedProcess("ours", filling)
    with refuses(("ours failed", "404: not here"), "run it alone"):
        TimedProcess("ours", far_away)  # pickle does not make this error again
    with (
        TimedProcess("ours", partial(calls, die=partial(os._exit, 3), divide=partial(divmod, 1, 0))) as ours,
        refuses(("ours", "exit code 3"), "run it alone"),
    ):
        with pytest.raises(UserError, match="^ours failed: .*zero; run it alone"):
            ours.run_turn(call="divide")
        ours.run_turn(call="die")


@pytest.fixture
def turns() -> list[str]:
    """The turns that were taken."""
    return []


@pytest.fixture
def taking(turns: list[str]) -> Callable[..., Turn]:
    """A contender with a name and the milliseconds of its turns; the last value repeats."""

    def contender(name: str, *milliseconds: float) -> Turn:
        times: Iterator[float] = chain(milliseconds, repeat(milliseconds[-1]))

        def turn() -> float:
            turns.append(name)
            return next(times)

        return turn

    return contender


def test_slow_calls_are_measured_once(
    monkeypatch: pytest.MonkeyPatch, taking: Callable[..., Turn], turns: list[str]
) -> None:
    monkeypatch.setattr(dueling, "DUEL_SECONDS", -1.0)
    assert run_duel(taking("a", 10.0), taking("b", 9.0)) == (10.0, 9.0, 0.9)
    assert turns == ["a", "b"]


def test_one_that_is_clearly_slower_is_measured_twice(taking: Callable[..., Turn], turns: list[str]) -> None:
    assert run_duel(taking("a", 1.6), taking("b", 1.0)).ratio == 1 / 1.6
    assert turns == ["a", "b", "b", "a"]


def test_six_rounds_of_one_order_are_enough(taking: Callable[..., Turn], turns: list[str]) -> None:
    assert run_duel(taking("a", 1.0), taking("b", 1.1)).ratio == 1.1
    assert len(turns) == 2 * 6


def test_as_many_are_run_as_it_takes_where_the_order_changes(taking: Callable[..., Turn], turns: list[str]) -> None:
    """Another program delays one of the two in three rounds; the ratio of the other rounds decides."""
    assert run_duel(taking("a", 1.0), taking("b", 1.1, 0.7, 1.1, 0.6, 1.1, 0.9, 1.1)).ratio == 1.1
    assert len(turns) > 2 * 9


def test_two_that_are_equal_are_known_to_be(taking: Callable[..., Turn], turns: list[str]) -> None:
    found = run_duel(taking("a", 1.0), taking("b", *[1.01, 0.99] * 20))
    assert len(turns) < 2 * 10 and found.ratio == pytest.approx(1.0, abs=0.01)


def test_an_interval_of_the_median_leaves_out_what_chance_may() -> None:
    """The number of rounds at each end of the sorted ones, from tables of the sign test at 5 % (two-sided)."""
    assert [dueling._median_interval_rank(count) for count in (1, 5, 6, 8, 9, 12, 20)] == [None, None, 0, 0, 1, 2, 5]


def test_a_difference_of_a_tenth_is_found_next_to_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn takes up to three times as long, independently: of 100 pairs hardly one has the wrong order."""
    rng, right = np.random.default_rng(0), 0
    clock = count(0.0, 0.4)  # seconds of a round
    monkeypatch.setattr(dueling, "perf_counter", lambda: next(clock))
    delay = partial(rng.choice, [1.0, 1.1, 3.0], p=[0.6, 0.3, 0.1])
    for _ in range(100):
        right += run_duel(lambda: 10.0 * delay(), lambda: 11.0 * delay()).ratio > 1
    assert right >= 95


def matmuls(folder: Path, count: int) -> Path:
    """x [batch, 256] through `count` matrices."""
    weight = numpy_helper.from_array(np.eye(256, dtype=np.float32), "weight")
    names = ["x", *(f"h{i}" for i in range(1, count)), "output"]
    nodes = [helper.make_node("MatMul", [a, "weight"], [b]) for a, b in zip(names, names[1:], strict=False)]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 256]) for n in ("x", "output")]
    graph = helper.make_graph(nodes, "matmuls", value[:1], value[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / f"matmuls{count}.onnx"
    onnx.save(model, path)
    return path


def contender(name: str, graph: Path | OnBackend, **feeds: np.ndarray) -> TimedContender:
    return TimedContender(name, (TimedGraph(graph, feeds),))


def test_a_body_races_on_a_named_backend(tiny_bundle: Path) -> None:
    feeds = {"x": np.zeros((1, 1, 4, 4), np.float32), "row": np.zeros((1, 1), np.float32)}
    contenders = [
        contender("file", tiny_bundle / "graphs/body.onnx", **feeds),
        contender("body", OnBackend("onnxruntime", tiny_bundle, "float32"), **feeds),
    ]
    first, second = run_race(contenders, Turns(rounds=1, seconds=0.01, threads=1, spinning=False)).timings
    assert (first.name, second.name, first.ratio) == ("file", "body", 1.0) and second.median > 0
    with pytest.raises(UserError, match="no body 'int8-tensorrt'"):
        run_race([contender("gone", OnBackend("onnxruntime", tiny_bundle, "int8-tensorrt"), **feeds)])


def test_ten_times_the_work_is_several_times_slower(tmp_path: Path) -> None:
    x = np.ones((32, 256), np.float32)
    turns = Turns(rounds=3, seconds=0.05, threads=1)
    result = run_race([contender(f"{n} matmuls", matmuls(tmp_path, n), x=x) for n in (20, 2)], turns)
    slow, fast = result.timings
    assert (result.batch, result.threads, result.rounds) == (32, 1, 3)
    assert slow.ratio == 1.0 and fast.ratio > 3
    assert fast.ratio_low <= fast.ratio <= fast.ratio_high
    assert 0 < fast.p10 <= fast.median <= fast.p90 and fast.runs >= 3
    assert fast.load > 0 and fast.peak_mib > 10


def test_a_mean_step_is_timed_of_all_networks_and_of_each(tmp_path: Path) -> None:
    """Three steps of 2 products and one of 20: 6.5 on average."""
    feeds = {"x": np.ones((32, 256), np.float32)}
    short, long = (matmuls(tmp_path, n) for n in (2, 20))
    several = TimedContender("several", (TimedGraph(long, feeds, 1, "noisy"), TimedGraph(short, feeds, 3, "clean")))
    timings = run_race([several], Turns(rounds=3, seconds=0.05, threads=1)).timings
    times = {timing.name: timing.median for timing in timings}
    assert [*times] == ["several", "several, noisy", "several, clean"] and {timing.ratio for timing in timings} == {1.0}
    assert times["several, clean"] < times["several"] < times["several, noisy"]


def test_a_child_that_dies_is_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a graph")
    with pytest.raises(UserError, match="broken failed: "):
        run_race([contender("broken", bad, x=np.zeros((1, 1), np.float32))])


def test_contenders_run_the_same_batch(tmp_path: Path) -> None:
    graph = matmuls(tmp_path, 1)
    with pytest.raises(ValueError, match="same batch"):
        run_race([contender(str(n), graph, x=np.zeros((n, 256), np.float32)) for n in (1, 2)])


def test_the_machine_is_described_without_naming_it():
    machine = this_machine()
    assert machine.processor and machine.cores == usable_cores() >= 1
    assert {"python", "numpy", "onnxruntime"} <= machine.versions.keys()
