"""Lowerings of one target share rounded weights, and are the same as apart."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from fewstep.graph.digest import digest
from fewstep.lowering import quantize
from fewstep.lowering.quantize import lower_graph
from fewstep.lowering.rounded import Rounded
from fewstep.lowering.scheme import Target
from fewstep.lowering.weights import QuantizedWeight, quantize_weight
from fewstep.ranges.table import Method
from tests.calibration.every_target import every_target
from tests.lowering.bodies.small_body import body, table

METHODS: tuple[Method, ...] = ("channels", "channels-balanced", "channels")


@every_target
@pytest.mark.parametrize("is_in_files", [False, True])
def test_a_search_is_done_once_and_nothing_differs(
    target: Target, is_in_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, searched = body(), []
    tables = [replace(table(prepared), method=method) for method in METHODS]
    apart = [digest(lower_graph(prepared, each, target)[0]) for each in tables]
    assert apart[0] == apart[2] != apart[1]
    real = quantize_weight
    monkeypatch.setattr(quantize, "quantize_weight", lambda *given: searched.append(given) or real(*given))
    monkeypatch.setattr("fewstep.lowering.rounded.LARGE", 1)
    rounded = Rounded((lambda name: tmp_path / name) if is_in_files else None)
    assert [digest(lower_graph(prepared, each, target, (), rounded)[0]) for each in tables] == apart
    operations = len(lower_graph(prepared, tables[0], target)[1])
    assert len(searched) - operations <= operations  # fewer where two operations have one weight
    assert len(list(tmp_path.glob("rounded-*"))) == (len(searched) - operations) * is_in_files


def test_another_weight_or_axis_or_type_is_another() -> None:
    rounded, made = Rounded(), []
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)

    def found(of: np.ndarray, axis: int, largest: int) -> int:
        how = (axis, "channels", np.dtype(np.float32), largest)
        rounded.of(of, how, lambda: made.append(how) or quantize_weight(of, *how))  # type: ignore[arg-type]
        return len(made)

    assert [found(weight, 0, 127), found(weight.copy(), 0, 127), found(weight, 1, 127)] == [1, 1, 2]
    assert [found(weight, 1, 63), found(weight + 1, 1, 63), found(weight.T, 1, 63)] == [3, 4, 5]


def test_threads_that_ask_for_one_weight_at_once_write_files_of_their_own(tmp_path: Path) -> None:
    """Two operations may have one weight. A file that is mapped is never cut off."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    rounded, both = Rounded(lambda name: tmp_path / name), Barrier(2)

    def made() -> QuantizedWeight:
        both.wait(10)
        return quantize_weight(weight, 0, "channels", np.float32, 127)

    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(rounded.of, weight, (0,), made) for _ in range(2)]
    one, other = (each.result().values for each in asked)
    assert len(list(tmp_path.glob("rounded-*"))) == 2
    np.testing.assert_array_equal(one, other)
