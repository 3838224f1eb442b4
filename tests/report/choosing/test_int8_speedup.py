"""int8 next to OpenVINO's bf16, which needs no calibration: one line if int8 is hardly faster, measured once."""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fewstep.measure.speed.duel import Duel
from fewstep.plans.errors import UserError
from fewstep.report.choosing import int8_speedup
from fewstep.report.choosing.engines import TimedEngine
from fewstep.report.choosing.int8_speedup import describe_gain, describe_small_speedup, time_bf16
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine.memory import Space
from tests.described_cpu import VNNI, describe_cpu

INT8, ENGINE = "int8-cpu-x86", TimedEngine("onnxruntime", 2, 5.0)


@pytest.fixture(autouse=True)
def cpu_with_bf16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    describe_cpu(monkeypatch, tmp_path, (*VNNI, "avx512_bf16"))


class Process(AbstractContextManager["Process"]):
    def __exit__(self, *exception: object) -> None: ...

    def median_milliseconds(self) -> float:
        raise AssertionError("the duel is a stand-in")


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """The body, backend and threads of each process that is opened."""
    made: list[tuple[str, str, int]] = []

    def open_process(bundle: Any, body: str, engine: TimedEngine, sizes: dict[str, int]) -> Process:
        assert sizes["batch"] == 4
        made.append((body, engine.backend, engine.threads))
        return Process()

    monkeypatch.setattr(int8_speedup, "open_process", open_process)
    monkeypatch.setattr(int8_speedup, "measure_load", lambda _: 1.0)
    return made


def said(bundle: Path) -> str | None:
    return describe_small_speedup(open_bundle(bundle), INT8, ENGINE, batch=4, threads=0)


@pytest.mark.parametrize(
    ("ratio", "start"),
    [
        (0.8, "int8 is slower here: "),
        (1.0, "int8 wins 1.00x here: "),
        (1.09, "int8 wins 1.09x here: "),
        (1.1, None),
        (3.0, None),
    ],
)
def test_a_line_says_where_int8_hardly_wins(
    tiny_bundle: Path,
    openings: list[tuple[str, str, int]],
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    start: str | None,
) -> None:
    monkeypatch.setattr(int8_speedup, "run_duel", lambda first, second: Duel(1.0, ratio, ratio))
    line = said(tiny_bundle)
    assert (line is None) if start is None else (line or "").startswith(start)
    assert openings == [(INT8, "onnxruntime", 2), ("float32", "openvino-bf16", 0)]


def test_it_is_measured_once(
    tiny_bundle: Path, openings: list[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_speedup, "run_duel", lambda first, second: Duel(1.0, 1.0, 1.0))
    assert said(tiny_bundle) == said(tiny_bundle) and len(openings) == 2


def test_on_a_busy_machine_it_is_not_measured(
    tiny_bundle: Path, openings: list[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_speedup, "measure_load", lambda _: 1.5)
    assert said(tiny_bundle) is None and openings == []


def test_without_openvino_nothing_is_said_and_the_next_choice_tries_again(
    tiny_bundle: Path, openings: list[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> Duel:
        raise UserError("openvino cannot be imported", "pip install it")

    monkeypatch.setattr(int8_speedup, "run_duel", failing)
    assert said(tiny_bundle) is None and said(tiny_bundle) is None and len(openings) == 4


TIMES = {"float32": 300.0, "int8-cpu-x86": 200.0, "int8-openvino": 150.0}
TARGETS = {"int8-cpu-x86": "cpu-x86", "int8-openvino": "openvino", "int8-tensorrt": "tensorrt"}


@pytest.fixture
def large(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose float32 has weights in a file, and whose calls take TIMES."""

    def open_process(bundle: Any, body: str, engine: TimedEngine, sizes: dict[str, int]) -> Any:
        process = Process()
        monkeypatch.setattr(process, "median_milliseconds", lambda: TIMES[body], raising=False)
        return process

    monkeypatch.setattr(int8_speedup, "open_lean_process", open_process)
    (tiny_bundle / "weights.data").write_bytes(bytes(1000))
    bundle = open_bundle(tiny_bundle)
    body = bundle.manifest.bodies["float32"]
    graphs = (msgspec.structs.replace(body.graphs[0], data=("weights.data",)),)
    bodies = {**bundle.manifest.bodies, "float32": msgspec.structs.replace(body, graphs=graphs)}
    opened = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, bodies=bodies))
    monkeypatch.setattr(int8_speedup, "open_bundle", lambda path: opened)
    return tiny_bundle


def test_a_large_network_is_timed_in_bf16_before_its_calibration(large: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert time_bf16(large, ("cpu-x86",), 0) == 300.0
    assert "float32 in bf16 on OpenVINO takes 300 ms a step here without a calibration" in caplog.text


@pytest.mark.parametrize(("milliseconds", "text"), [(0.0341, "0.034"), (3.46, "3.5"), (12.4, "12"), (1234.5, "1234")])
def test_a_time_below_ten_has_two_digits(milliseconds: float, text: str) -> None:
    assert int8_speedup._format_digits(milliseconds) == text


@pytest.mark.parametrize(("free", "timed"), [(1999, False), (2000, True)])
def test_a_large_network_is_timed_if_its_weights_fit_memory_twice(
    large: Path, monkeypatch: pytest.MonkeyPatch, free: int, timed: bool
) -> None:
    monkeypatch.setattr(int8_speedup, "this_space", lambda *folders: Space(2000, free, 0, 0))
    assert (time_bf16(large, ("cpu-x86",), 0) is not None) == timed


def test_a_network_without_its_weights_is_left_to_the_calibration(large: Path) -> None:
    (large / "weights.data").unlink()
    assert time_bf16(large, ("cpu-x86",), 0) is None


def test_a_small_network_is_not_timed_first(tiny_bundle: Path, openings: list[tuple[str, str, int]]) -> None:
    assert time_bf16(tiny_bundle, ("cpu-x86",), 0) is None and openings == []


def test_a_calibration_for_gpus_alone_times_no_cpu(large: Path) -> None:
    assert time_bf16(large, ("tensorrt", "qnn"), 0) is None


@pytest.mark.parametrize(
    ("bf16", "start"), [(300.0, "int8 wins 2.00x here: "), (150.0, "int8 wins 1.00x"), (75.0, "int8 is slower")]
)
def test_the_fastest_body_is_compared_with_bf16(large: Path, bf16: float, start: str) -> None:
    (line,) = describe_gain(large, TARGETS, bf16, 0)
    assert line.startswith(start) and "a step of int8-openvino takes 150 ms" in line
    assert ("compare samples" in line) == (bf16 < 165)


def test_a_missing_bundle_is_left_to_the_calibration(tmp_path: Path) -> None:
    assert time_bf16(tmp_path / "missing", ("cpu-x86",), 0) is None


def test_without_a_time_in_bf16_nothing_is_compared(large: Path) -> None:
    assert describe_gain(large, TARGETS, None, 0) == ()


@pytest.mark.parametrize(
    ("instructions", "has_bf16"),
    [(VNNI, False), ((*VNNI, "avx512_bf16"), True), ((*VNNI, "amx_bf16"), True), (("asimddp", "bf16"), True)],
)
def test_bf16_is_advised_only_where_the_processor_has_it(
    large: Path,
    openings: list[tuple[str, str, int]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    instructions: tuple[str, ...],
    has_bf16: bool,
) -> None:
    """Elsewhere a step took 30 seconds."""
    describe_cpu(monkeypatch, tmp_path, instructions)
    monkeypatch.setattr(int8_speedup, "run_duel", lambda *_: Duel(1.0, 0.8, 0.8))
    assert (time_bf16(large, ("cpu-x86",), 0) is not None) == has_bf16
    assert (said(large) is not None) == has_bf16
    assert bool(openings) == has_bf16
