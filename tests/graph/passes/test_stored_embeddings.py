"""Tables of embeddings in 8 bits."""

import numpy as np

from fewstep.graph.graph import Graph
from fewstep.graph.passes.stored_embeddings import store_embeddings
from fewstep.graph.session import run
from tests.onnx_text import graph_of_text
from tests.refusals import refuses

IDS = np.array([[0, 3, 511], [7, 7, 1]])


def embed(rows: int = 512, also: str = "") -> Graph:
    """e [batch, 3, 32] of ids. The rows of the table have very different scales."""
    scales = np.exp(np.random.default_rng(0).standard_normal((rows, 1)) * 2)
    table = (np.random.default_rng(1).standard_normal((rows, 32)) * scales).astype(np.float32)
    text = f"(int64[batch, 3] ids) => (float[batch, 3, 32] e) {{ r = Gather(table, ids) {also} e = Tanh(r) }}"
    return graph_of_text(text, table=table)


def test_each_row_is_within_half_a_step_of_its_own_scale() -> None:
    graph = embed()
    stored = store_embeddings(graph)
    table = graph.constants["table"]
    (rows,) = (array for array in stored.constants.values() if array.dtype == np.int8)
    assert rows.shape == table.shape and "table" not in stored.constants
    exact, rounded = (
        np.arctanh(run(version, {"ids": IDS})["e"].astype(np.float64) * 0.999) for version in (graph, stored)
    )
    small = np.abs(table[IDS]) < 1
    steps = np.broadcast_to(np.abs(table).max(axis=1)[IDS][..., None] / 127, small.shape)
    assert np.all(np.abs(rounded - exact)[small] < 2 * steps[small] + 1e-3) and np.any(rounded != exact)


def test_small_tables_and_those_with_other_readers_stay_float() -> None:
    for graph in (embed(rows=511), embed(also="unused = Transpose(table)")):
        assert store_embeddings(graph) is graph


def test_a_number_that_is_not_finite_is_refused() -> None:
    graph = embed()
    graph.constants["table"][3, 4] = np.nan
    with refuses("table 'table' has NaN", "finite"):
        store_embeddings(graph)
