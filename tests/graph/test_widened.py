"""float32 constants whose numbers are stored in 16 bits."""

import io
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fewstep.graph import widened
from fewstep.graph.files import weights
from fewstep.graph.graph import Array, Graph
from fewstep.graph.session import run
from fewstep.graph.widened import cast_constants, stored_array, widen, widen_constants
from tests.graph.small_graphs import feeds, node, small, value

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
STORED = np.random.default_rng(0).standard_normal((6, 4)).astype(BFLOAT16)


@pytest.mark.parametrize("view", [lambda a: a, lambda a: a.T, lambda a: a[1:3], lambda a: a.reshape(-1, 8)])
def test_views_have_the_numbers_of_float32_and_the_memory_of_16_bits(view: object) -> None:
    made, plain = view(widen(STORED)), view(STORED.astype(np.float32))  # type: ignore[operator]
    assert made.dtype == np.float32 and made.shape == plain.shape and made.nbytes == plain.nbytes
    assert np.shares_memory(stored_array(made), STORED)
    assert np.array_equal(np.asarray(made), plain) and np.array_equal(made * 2 + 1, plain * 2 + 1)


def test_it_is_written_as_float32() -> None:
    for array in (widen(STORED), widen(STORED).T):
        stream = io.BytesIO()
        weights.write(stream, [array])
        assert stream.getvalue() == np.asarray(array).tobytes()


def test_it_has_no_place_in_a_file_of_other_numbers(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(STORED.tobytes())
    mapped = weights.view(weights.map_file(tmp_path / "w"), 0, BFLOAT16, STORED.shape)
    assert weights.place_of(mapped) is not None and weights.place_of(widen(mapped)) is None
    assert weights.memory_key(widen(mapped)) == weights.memory_key(widen(mapped)) != weights.memory_key(mapped)


@pytest.mark.parametrize("weight", [widen(STORED).T, widen(STORED.T.copy()), widen(STORED[:, ::-1]).T])
def test_a_graph_computes_with_casts_as_with_float32(weight: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widened, "LEAST_BYTES", 1)
    nodes = [node("MatMul", "x w", "h"), node("MatMul", "x w", "g"), node("Mul", "h g", "output")]
    plain = small([value("x", "batch", 4)], [value("output", "batch", 6)], nodes, w=np.asarray(weight))
    graph = replace(plain, constants={"w": weight})
    fed = feeds(plain, 3)
    assert np.array_equal(run(graph, fed)["output"], run(plain, fed)["output"])
    written = cast_constants(graph)
    assert written.ops().count("Cast") == 2 and all(array.dtype == BFLOAT16 for array in written.constants.values())


def test_a_cast_of_a_stored_weight_becomes_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widened, "LEAST_BYTES", 1)
    nodes = [node("Cast", "w", "v", to=1), node("MatMul", "x v", "output")]
    ports = [value("x", "batch", 6)], [value("output", "batch", 4)]
    graph = widen_constants(small(*ports, nodes, w=STORED))
    assert graph.ops() == ("MatMul",) and np.array_equal(np.asarray(graph.constants["w/float32"]), STORED)


IDS = np.array([[0, 5, 5]])


def embedding(table: Array) -> Graph:
    nodes = [node("Gather", "w ids", "output")]
    graph = small([value("ids", "batch", 3, dtype=np.int64)], [value("output", "batch", 3, 4)], nodes, w=STORED)
    return replace(graph, constants={"w": table})


def test_only_the_rows_of_a_table_that_are_read_become_float32() -> None:
    written = cast_constants(embedding(widen(STORED)))
    assert written.ops() == ("Gather", "Cast") and written.constants["w/stored"] is STORED
    assert np.array_equal(run(written, {"ids": IDS})["output"], STORED[IDS].astype(np.float32))


def test_a_transposed_table_becomes_float32_before_its_rows_are_read() -> None:
    written = cast_constants(embedding(widen(STORED.T.copy()).T))
    assert written.ops() == ("Transpose", "Cast", "Gather")
    assert np.array_equal(run(written, {"ids": IDS})["output"], STORED[IDS].astype(np.float32))


def test_rows_of_a_stored_table_that_are_cast_are_rows_of_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widened, "LEAST_BYTES", 1)
    graph = widen_constants(cast_constants(embedding(widen(STORED))))
    assert graph.ops() == ("Gather",)
    assert np.array_equal(run(graph, {"ids": IDS})["output"], STORED[IDS].astype(np.float32))


def test_rows_that_are_read_in_16_bits_too_stay_rows_of_the_stored_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widened, "LEAST_BYTES", 1)
    nodes = [node("Gather", "w ids", "rows"), node("Cast", "rows", "output", to=1), node("Cast", "rows", "half", to=10)]
    outputs = [value("output", "batch", 3, 4), value("half", "batch", 3, 4, dtype=np.float16)]
    graph = small([value("ids", "batch", 3, dtype=np.int64)], outputs, nodes, w=STORED)
    assert widen_constants(graph).ops() == ("Gather", "Cast", "Cast")
