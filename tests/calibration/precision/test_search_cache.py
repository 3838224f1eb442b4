"""A search goes on where it was interrupted, and another point of its frontier is deployed without measuring anew."""

from math import nan
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.calibration.precision import search_cache as kept_module
from fewstep.calibration.precision import sensitivity, variants
from fewstep.calibration.precision.search import JudgedQuality
from fewstep.calibration.precision.search_cache import Figures, SearchCache, key
from fewstep.measure.rollouts import closed_loop
from fewstep.measure.workers import code_digest
from fewstep.runtime.machine import cache
from fewstep.runtime.machine import code_digest as machine_digest
from tests.calibration.copied_sources import copied_sources, edit
from tests.calibration.precision.faked_times import Clock
from tests.calibration.precision.test_refine import LAYERS, deep, run
from tests.calibration.test_calibrate import write_bundle

pytestmark = pytest.mark.slow


class Killed(Exception):
    pass


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", deep())


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[int]:
    """Grows by 1 with each operation that is timed; it may be made to kill at one."""
    calls: list[int] = []
    real = sensitivity.slowdown  # the clock's

    def slowdown(*arguments: object) -> float:
        if len(calls) == 2:
            calls.append(0)
            raise Killed
        calls.append(1)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sensitivity, "slowdown", slowdown)
    return calls


def kept() -> list[Path]:
    return list((cache.folder() / "precision").glob("*"))


def test_a_search_goes_on_after_the_operations_it_has(
    bundle: Path, timed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        run(bundle, quality="45dB")
    (file,) = kept()
    found = run(bundle, quality="45dB").refined["int8-cpu-x86"]
    assert len(timed) == 3 + (LAYERS - 2) + 1  # two and the killed one; the others, and float32
    assert "of 4 operations 4 were measured before on this machine, 2 of them timed" in caplog.text
    assert str(file) in caplog.text
    assert found.sensitivity.gains.shape == (LAYERS, 3) and np.all(found.sensitivity.costs > -1)


def test_another_point_is_deployed_from_the_same_figures(bundle: Path, timed: list[int]) -> None:
    timed += [1, 1, 1]  # none is killed
    first = run(bundle, quality="20dB").refined["int8-cpu-x86"]
    measured = len(timed)
    best = max(first.frontier, key=lambda point: point.quality)
    second = run(bundle, quality=f"{best.quality:.1f}dB").refined["int8-cpu-x86"]
    assert len(timed) == measured
    assert {point.choice: point.quality for point in second.frontier}.items() >= {best.choice: best.quality}.items()
    assert np.array_equal(first.sensitivity.costs, second.sensitivity.costs)
    third = run(bundle, quality="20dB", trajectories=5).refined["int8-cpu-x86"]  # other ranges
    assert len(timed) == 2 * measured - 3 and third.sensitivity.quality != first.sensitivity.quality
    assert len(kept()) == 2


def test_what_was_judged_is_not_judged_again(bundle: Path, timed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    timed += [1, 1, 1]
    first = run(bundle, quality="34dB").refined["int8-cpu-x86"]
    ran: list[int] = []
    real = closed_loop.Course.run

    def counting(self: closed_loop.Course, *more: Any) -> Any:
        ran.append(1)
        return real(self, *more)

    monkeypatch.setattr(closed_loop.Course, "run", counting)
    second = run(bundle, quality="34dB").refined["int8-cpu-x86"]
    every = len(first.sensitivity.operations)
    assert 1 <= len(ran) <= 1 + every + 1  # all int8 on the seeds that judge a body, and what each operation costs
    assert second.point == first.point and second.int8 == first.int8
    assert first.point.judged is not None and first.point.judged.error > 0


def test_figures_of_other_seeds_that_judge_are_not_taken(
    bundle: Path, timed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed += [1, 1, 1]
    first = run(bundle, quality="20dB").refined["int8-cpu-x86"]
    monkeypatch.setattr(closed_loop, "JUDGE_SEEDS", closed_loop.SELECTION_SEEDS[80:144])
    second = run(bundle, quality="20dB").refined["int8-cpu-x86"]
    assert len(kept()) == 2 and second.int8 != first.int8 and second.point.quality == first.point.quality


def test_a_damaged_file_is_none(bundle: Path, timed: list[int], caplog: pytest.LogCaptureFixture) -> None:
    timed += [1, 1, 1]
    first = run(bundle, quality="20dB").refined["int8-cpu-x86"]
    (file,) = kept()
    file.write_bytes(file.read_bytes()[:-9])
    again = run(bundle, quality="20dB").refined["int8-cpu-x86"]
    assert "it starts anew" in caplog.text
    assert np.array_equal(first.sensitivity.gains, again.sensitivity.gains)


def test_gains_of_other_groups_are_none(bundle: Path, timed: list[int], caplog: pytest.LogCaptureFixture) -> None:
    timed += [1, 1, 1]
    run(bundle, quality="20dB")
    (file,) = kept()
    figures = msgspec.json.decode(file.read_bytes(), type=Figures)
    figures.gains["h2"] = (0.5,)
    file.write_bytes(msgspec.json.encode(figures))
    found = run(bundle, quality="20dB").refined["int8-cpu-x86"]
    assert "gains of other groups" in caplog.text and found.sensitivity.gains.shape == (LAYERS, 3)


@pytest.mark.parametrize("change", [{"quota": 1.5}, {"int8_instructions": ()}])
def test_times_of_another_machine_are_not_taken(
    bundle: Path, timed: list[int], monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    timed += [1, 1, 1]
    run(bundle, quality="20dB")
    cpu = msgspec.structs.replace(kept_module.this_cpu(), **change)
    monkeypatch.setattr(kept_module, "this_cpu", lambda: cpu)
    run(bundle, quality="20dB")
    assert len(kept()) == 2


def test_figures_of_another_version_are_not_taken(
    bundle: Path, timed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed += [1, 1, 1]
    run(bundle, quality="20dB")
    first = len(timed)
    monkeypatch.setattr(machine_digest, "version_of", lambda package: f"another {package}")
    run(bundle, quality="20dB")
    assert len(kept()) == 2 and len(timed) == 2 * first - 3


def test_figures_from_before_an_edit_are_not_taken(
    bundle: Path, timed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of anything that makes graphs: here of one file of the lowering."""
    timed += [1, 1, 1]
    run(bundle, quality="20dB")
    before, copies = code_digest.code(), copied_sources(tmp_path / "copy")
    monkeypatch.setattr(code_digest, "PACKAGES", copies)
    assert code_digest.code() == before and len(copies) == len(code_digest.ROOMS)
    edit(copies, "calibration", "lowering/quantize.py")
    run(bundle, quality="20dB")
    assert len(kept()) == 2 and code_digest.code() != before


def test_what_is_not_a_number_is_not_kept() -> None:
    gains, costs = {"a": (nan, 1.0), "b": (2.0, 1.0)}, {"a": 0.5, "b": nan}
    judged = {"1;": JudgedQuality(nan, 0.1), ";1": JudgedQuality(29.0, 0.1)}
    figures = Figures((nan, 1.0), gains, costs, {"1;": nan, ";1": 30.0}, judged, {"1": nan, "2": 1.5})
    SearchCache("figures.json", figures).save()
    (file,) = kept()
    clean = Figures(None, {"b": (2.0, 1.0)}, {"a": 0.5}, {";1": 30.0}, {";1": JudgedQuality(29.0, 0.1)}, {"2": 1.5})
    assert msgspec.json.decode(file.read_bytes(), type=Figures) == clean


def test_all_int8_is_lowered_once(bundle: Path, timed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    timed += [1, 1, 1]
    without: list[tuple[str, ...]] = []
    for name in ("lower", "lower_graph"):
        real = getattr(variants, name)

        def recorded(prepared: Any, table: Any, target: Any, in_float: Any, *more: Any, real: Any = real) -> Any:
            without.append(tuple(in_float))
            return real(prepared, table, target, in_float, *more)

        monkeypatch.setattr(variants, name, recorded)
    run(bundle, quality="45dB")  # trials of ranges lower it elsewhere
    assert without.count(()) == 1 and len(without) > LAYERS


def test_choices_have_keys_of_their_own() -> None:
    assert key((frozenset({3, 1}), frozenset(), frozenset({12}))) == "1,3;;12"
    assert key((frozenset({1}), frozenset({3}), frozenset({12}))) == "1;3;12"
