"""The time of a whole call: what is compared, stored and said. No test asserts a time."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.measure.speed.contender_process import Seconds
from fewstep.measure.speed.timed_process import TimedProcess
from fewstep.report.call_time import describe_call, valid_calls
from fewstep.report.choosing import companion_times, whole_call
from fewstep.report.choosing.whole_call import are_decided, time_calls, time_outdated_calls
from fewstep.runtime.bundle.manifest import Body, CallTime, GraphEntry, ReplacedGraph
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine.turns import stop_after_rounds
from tests.bundles import change_bundle
from tests.free_size_bundle import free
from tests.report.choosing.test_call_shares import add_decoder
from tests.report.judged_bundle import make_bundle
from tests.timed_here import TimedHere

BODY = "int8-cpu-x86"
CALL = CallTime(BODY, ("graphs/a.onnx",), "ddim:1", 44.0, 43.8, 0.9, 1.1, 0.95, "Some CPU", 1, 0.04, 0.03)


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_call, "measure_load", lambda _: 1.0)


INT8 = Body.from_graph(GraphEntry("graphs/a.onnx", (), ()), "int8", "cpu-x86")


@pytest.mark.parametrize(("slowest", "words"), [(1.1, "faster"), (1.09, "not clearly faster")])
def test_the_line_says_first_whether_int8_is_faster_in_every_round(slowest: float, words: str) -> None:
    call = msgspec.structs.replace(CALL, milliseconds=22.0, slowest=slowest, fastest=2.1)
    said = (
        f"{BODY} is {words} on Some CPU (2.00x, rounds from {slowest:.2f} to 2.10): a whole call of ddim:1 takes 22 ms"
    )
    assert describe_call(call, INT8).startswith(said)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (1.2, "on Some CPU (1.00x"),
        (3.24, "by processor time, since other programs made work take 3.2 times as long (1.00x"),
    ],
)
def test_the_line_names_the_load_of_other_programs(load: float, words: str) -> None:
    assert words in describe_call(msgspec.structs.replace(CALL, load=load), INT8)


def test_the_load_is_stored(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_call, "measure_load", lambda _: 2.5)
    [*time_calls(tiny_bundle, [BODY], threads=1)]
    assert open_bundle(tiny_bundle).manifest.calls[0].load == 2.5


def test_the_line_names_what_stays_float32() -> None:
    end = "43.8 ms, and 44 ms in float32; 95 % of it is the conditioner and the prologue, which stay in float32"
    assert describe_call(CALL, INT8).endswith(
        f"{end}; 4 % of the call's MACs and 3 % of the bytes of its files are in int8"
    )
    short = msgspec.structs.replace(CALL, setup=0.05, share_of_macs=None, share_of_bytes=None)
    assert describe_call(short, INT8).endswith("in float32")
    replaced = msgspec.structs.replace(INT8, replaces={"conditioner": ReplacedGraph("graphs/c.onnx", (), ())})
    assert "the conditioner and the prologue; 4 % of the call's MACs" in describe_call(CALL, replaced)


@pytest.mark.parametrize(
    ("speeds", "rounds"),
    [
        ((2.0, 2.1, 1.9), 3),  # faster
        ((1.0, 0.99, 1.01), 3),  # not faster
        ((1.0, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0), 7),  # one round says the contrary
        ((1.2, 1.4, 1.2, 1.3, 1.2), 4),  # the interval of three rounds contains 1.1
    ],
)
def test_rounds_end_when_they_agree_whether_int8_is_faster(speeds: tuple[float, ...], rounds: int) -> None:
    times = [(speed, 1.0) for speed in speeds]
    assert [are_decided(times[:count]) for count in range(1, rounds + 1)] == [False] * (rounds - 1) + [True]


def test_companions_are_part_of_both_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 takes 30 ms, int8 10 ms of which 4 are the setup, and the decoder 10 ms: a call is twice as fast."""
    bundle = make_bundle(tmp_path / "tiny")
    add_decoder(bundle)
    times = {"float32": 30.0, BODY: 10.0, "the text encoder and the decoder": 10.0}

    class Clocked(TimedHere):
        def run_turn(self, seconds: float | None = None, call: str = "") -> list[Seconds]:
            super().run_turn(seconds, call)
            milliseconds = 4.0 if call.startswith("setup") else times[self.name]
            return [(1e-3 * milliseconds, 1e-3 * milliseconds)]

    monkeypatch.setattr(whole_call, "TimedProcess", Clocked)
    monkeypatch.setattr(companion_times, "TimedProcess", Clocked)
    monkeypatch.setattr(whole_call, "measure_load", lambda _: 1.0)
    (line,) = time_calls(bundle, [BODY], threads=1)
    (call,) = open_bundle(bundle).manifest.calls
    assert (call.float32, call.milliseconds, call.companions) == (40.0, 20.0, 10.0)
    assert (call.slowest, call.fastest, call.setup) == (2.0, 2.0, pytest.approx(0.2))
    assert "and 40 ms in float32, of which the text encoder and the decoder take 10 ms; 20 % of it" in line
    assert f", {call.day} (2.00x" in line and len(call.day) == len("2026-01-31")


def test_on_a_busy_machine_the_times_are_processor_times(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs delay float32's calls more: 90 ms for 44, and 45 ms for 40 of int8."""

    class Delayed(TimedHere):
        def run_turn(self, seconds: float | None = None, call: str = "") -> list[Seconds]:
            return [(0.09, 0.044)] if self.name == "float32" else [(0.045, 0.04)]

    monkeypatch.setattr(whole_call, "TimedProcess", Delayed)
    measured = []
    for load in (1.0, 3.0):
        monkeypatch.setattr(whole_call, "measure_load", lambda _, load=load: load)
        lines = [*time_calls(tiny_bundle, [BODY], threads=1)]
        line, last = lines[0], lines[-1]
        assert last.startswith("`fewstep report` times calls again") == (load > 1)
        assert ("ms of processor time, and" in line) == (load > 1)
        (call,) = open_bundle(tiny_bundle).manifest.calls
        measured += [call.float32, call.milliseconds]
    assert measured == pytest.approx([90.0, 45.0, 44.0, 40.0])


@pytest.mark.parametrize(
    ("changes", "count"),
    [({}, 0), ({"load": 2.0}, 1), ({"day": "2026-01-31"}, 1), ({"processor": "another"}, 1), ({"threads": 2}, 1)],
)
def test_calls_of_another_day_machine_load_or_number_of_threads_are_timed_again(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | float], count: int
) -> None:
    monkeypatch.setattr(whole_call, "measure_load", lambda _: 1.0)
    [*time_calls(tiny_bundle, [BODY], threads=1)]
    (call,) = open_bundle(tiny_bundle).manifest.calls
    change_bundle(tiny_bundle, calls=(msgspec.structs.replace(call, **changes),))
    assert len(time_outdated_calls(open_bundle(tiny_bundle), [BODY], 1, lambda bundle: None)) == count


def test_bodies_are_timed_in_processes_of_their_own(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_call, "TimedProcess", TimedProcess)
    monkeypatch.setattr(whole_call, "are_decided", stop_after_rounds(1))
    assert [*time_calls(tiny_bundle, [BODY], threads=1)][0].startswith(BODY)


def test_the_line_names_the_sizes_of_the_sample(tiny_bundle: Path) -> None:
    """Conditions of a user are timed at their own size."""
    free(tiny_bundle)
    bodies = open_bundle(tiny_bundle).manifest.bodies
    body = msgspec.structs.replace(bodies["float32"], precision="int8", target="cpu-x86")
    change_bundle(tiny_bundle, bodies={**bodies, BODY: body})
    records = {"class": np.array([3]), "picture": np.zeros((1, 1, 24, 8), np.float32)}
    (line,) = time_calls(tiny_bundle, [BODY], 1, lambda bundle: records)
    assert " at height 12, width 8 takes " in line
    assert open_bundle(tiny_bundle).manifest.calls[0].sizes == {"height": 12, "width": 8}


def test_a_call_is_timed_with_its_setup_and_stored(tiny_bundle: Path) -> None:
    (line,) = time_calls(tiny_bundle, [BODY], threads=1)
    (call,) = open_bundle(tiny_bundle).manifest.calls
    assert line == describe_call(call, open_bundle(tiny_bundle).body(BODY)) and [
        *valid_calls(open_bundle(tiny_bundle).manifest)
    ] == [call]
    assert (
        0 < call.slowest <= call.fastest
        and call.milliseconds > 0
        and 0 < call.setup <= 1
        and 0 < (call.share_of_bytes or 0) < 1
    )
    time_calls_again = [*time_calls(tiny_bundle, [BODY], threads=1)]
    assert len(time_calls_again) == len(open_bundle(tiny_bundle).manifest.calls) == 1


def test_conditions_that_cannot_be_drawn_are_given(tiny_bundle: Path) -> None:
    """As encoded prompts, which have no range."""
    (condition,) = open_bundle(tiny_bundle).manifest.conditions
    change_bundle(tiny_bundle, conditions=(msgspec.structs.replace(condition, low=None, high=None, labels=()),))
    (line,) = time_calls(tiny_bundle, [BODY], threads=1)
    assert line.startswith(f"{BODY}: not timed here, condition 'class' has no range")
    (line,) = time_calls(tiny_bundle, [BODY], 1, lambda bundle: {"class": np.array([3])})
    assert "a whole call of" in line


def test_times_of_a_body_that_was_replaced_are_not_shown(tiny_bundle: Path) -> None:
    change_bundle(tiny_bundle, calls=(CALL,))
    assert not [*valid_calls(open_bundle(tiny_bundle).manifest)]


def test_a_target_of_another_device_is_not_timed_here(tiny_bundle: Path) -> None:
    bodies = open_bundle(tiny_bundle).manifest.bodies
    change_bundle(tiny_bundle, bodies={**bodies, BODY: msgspec.structs.replace(bodies[BODY], target="tensorrt")})
    before = open_bundle(tiny_bundle).manifest
    assert [*time_calls(tiny_bundle, [BODY], threads=1)] == [
        f"{BODY}: not timed here, since tensorrt does not run on CPUs"
    ]
    assert open_bundle(tiny_bundle).manifest == before
