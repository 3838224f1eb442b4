"""int8 next to OpenVINO's bf16, which needs no calibration: one line if int8 hardly wins, measured once."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from fewstep.measure.speed.duel import Duel
from fewstep.plans.errors import UserError
from fewstep.report.choosing import int8_speedup
from fewstep.report.choosing.engines import TimedEngine
from fewstep.report.choosing.int8_speedup import describe_small_speedup
from fewstep.runtime.bundle.reading import open_bundle

INT8, ENGINE = "int8-cpu-x86", TimedEngine("onnxruntime", 2, 5.0)


class Process(AbstractContextManager["Process"]):
    def __exit__(self, *exception: object) -> None: ...

    def median_milliseconds(self) -> float:
        raise AssertionError("the duel is a stand-in")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """The body, backend and threads of each process that is opened."""
    made: list[tuple[str, str, int]] = []

    def open_process(bundle: Any, body: str, engine: TimedEngine, sizes: dict[str, int]) -> Process:
        assert sizes["batch"] == 4
        made.append((body, engine.backend, engine.threads))
        return Process()

    monkeypatch.setattr(int8_speedup, "open_process", open_process)
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
    opened: list[tuple[str, str, int]],
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    start: str | None,
) -> None:
    monkeypatch.setattr(int8_speedup, "run_duel", lambda first, second: Duel(1.0, ratio, ratio))
    line = said(tiny_bundle)
    assert (line is None) if start is None else (line or "").startswith(start)
    assert opened == [(INT8, "onnxruntime", 2), ("float32", "openvino-bf16", 0)]


def test_it_is_measured_once(
    tiny_bundle: Path, opened: list[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_speedup, "run_duel", lambda first, second: Duel(1.0, 1.0, 1.0))
    assert said(tiny_bundle) == said(tiny_bundle) and len(opened) == 2


def test_without_openvino_nothing_is_said_and_the_next_choice_tries_again(
    tiny_bundle: Path, opened: list[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> Duel:
        raise UserError("openvino cannot be imported", "pip install it")

    monkeypatch.setattr(int8_speedup, "run_duel", failing)
    assert said(tiny_bundle) is None and said(tiny_bundle) is None and len(opened) == 4
