"""Weights in files: written once, found again, shared by the graphs of a bundle, and mapped at run time."""

import hashlib
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fewstep.graph.files import io, weights
from fewstep.graph.files.commit import Writer, open_for_update
from fewstep.graph.graph import Array, Graph
from fewstep.graph.passes.concat import split_concat
from fewstep.graph.passes.constants import fold_constants
from fewstep.graph.session import open_session, run
from fewstep.graph.widened import stored_array, widen
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.onnx_references import external_data_files
from tests.graph.small_graphs import node, small, value
from tests.onnx_text import graph_of_text

X = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def product(**constants: Array) -> Graph:
    """y = x @ each of the constants, in turn."""
    names = ["x", *(f"h{i}" for i in range(1, len(constants))), "y"]
    nodes = [node("MatMul", f"{a} {w}", b) for a, w, b in zip(names[:-1], constants, names[1:], strict=True)]
    return small([value("x", "batch", 64)], [value("y", "batch", 64)], nodes, **constants)


@pytest.mark.parametrize(
    "array",
    [
        random(64, 64),
        random(3, 5, 7).transpose(2, 0, 1),
        random(64, 64)[:, ::2],
        np.arange(5000, dtype=np.int8),
        np.ones((1, 6000), np.float16).T,
        np.array(3.0),
        np.empty((0, 4), np.float32),
    ],
    ids=["plain", "transposed", "strided", "int8", "column", "scalar", "empty"],
)
@pytest.mark.parametrize("block", [64, weights.BLOCK])
def test_what_is_written_is_the_array_in_order(
    tmp_path: Path, array: Array, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "BLOCK", block)
    with (tmp_path / "w").open("wb") as stream:
        offsets = weights.write(stream, [np.ones(3, np.int8), array])
    assert offsets == [0, weights.PAGE]
    assert (tmp_path / "w").read_bytes()[weights.PAGE :] == array.tobytes()
    assert (tmp_path / "w").stat().st_size == weights.file_bytes([np.ones(3, np.int8), array])


def test_large_arrays_begin_where_every_system_can_map_them(tmp_path: Path) -> None:
    arrays = [np.zeros(10, np.int8), np.zeros(weights.COARSE, np.int8), np.zeros(5000, np.int8), np.zeros(1, np.int8)]
    with (tmp_path / "w").open("wb") as stream:
        offsets = weights.write(stream, arrays)
    assert offsets == [0, 65536, 65536 + 2**20, 65536 + 2**20 + 8192]


def test_a_mapped_array_knows_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(bytes(4096) + random(64, 64).tobytes())
    array = weights.view(weights.map_file(path), 4096, np.dtype(np.float32), (64, 64))
    np.testing.assert_array_equal(array, random(64, 64))
    assert weights.place_of(array) == weights.FilePlace(path, 4096)
    assert weights.place_of(array[2:]) == weights.FilePlace(path, 4096 + 2 * 256)
    assert weights.place_of(array.reshape(32, 128)) == weights.FilePlace(path, 4096)
    for other in (array.T, array[:, 1:], array + 0, random(2, 2), np.asfortranarray(array)):
        assert weights.place_of(other) is None
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def store_graph(writer: Writer, graph: Graph, name: str, **options: int) -> tuple[str, tuple[str, ...]]:
    file, data = io.store(writer, graph, name, **options)
    assert {f"graphs/{location}" for location in external_data_files(writer.bundle / file)} == set(data)
    for each in (file, *data):
        assert writer.files[each] == hashlib.sha256((writer.bundle / each).read_bytes()).hexdigest()
    return file, data


def test_graphs_share_what_they_both_hold_and_write_the_rest(tmp_path: Path) -> None:
    """Such as the layers left in float, which an int8 body shares with the float32 one, and its integers, which it
    shares with another target's.
    """
    a, b, c, d = (random(64, 64, seed=seed) for seed in range(4))
    with open_for_update(tmp_path / "b", must_exist=False) as writer:
        file, first = store_graph(writer, product(a=a, b=b), "float", external_above=0)
        loaded = io.load(writer.bundle / file)
        changed = replace(loaded, constants={**loaded.constants, "b": c})
        other, second = store_graph(writer, changed, "int8")  # shares a, as it lies; c is new
        again, third = store_graph(writer, product(p=a.copy(), q=c.copy(), r=d), "another", external_above=0)
        assert len(first) == 1 and second[0] == first[0] and len(second) == 2
        assert third[:2] == second and len(third) == 3
        sizes = [(writer.bundle / name).stat().st_size for name in third]
        assert sizes == [2 * a.nbytes, a.nbytes, a.nbytes]
        np.testing.assert_array_equal(
            run(io.load(writer.bundle / again), {"x": X})["y"], run(product(p=a, q=c, r=d), {"x": X})["y"]
        )
        np.testing.assert_array_equal(
            run(io.load(writer.bundle / other), {"x": X})["y"], run(product(a=a, b=c), {"x": X})["y"]
        )


@pytest.mark.parametrize(("kept", "is_shared"), [("ab", True), ("a", False)])
def test_a_graph_copies_the_little_that_it_reads_of_another_body_s_file(
    tmp_path: Path, kept: str, is_shared: bool
) -> None:
    """Loading hashes every file that a graph names, so an int8 body does not name a file of float weights for one
    layer.
    """
    arrays = {name: random(64, 64, seed=seed) for seed, name in enumerate("abc")}
    with open_for_update(tmp_path / "b", must_exist=False) as writer:
        file, whole = store_graph(writer, product(**arrays), "float", external_above=0)
        loaded = io.load(writer.bundle / file).constants
        mixed = product(**{name: array if name in kept else random(64, 64, seed=9) for name, array in loaded.items()})
        trial, _ = store_graph(writer, mixed, "trial")  # shares the file, and does not lend it to the body
        body, data = io.store(writer, mixed, "int8", external_above=0, others=whole)
        assert (whole[0] in data) == is_shared
        np.testing.assert_array_equal(
            run(io.load(writer.bundle / body), {"x": X})["y"], run(io.load(writer.bundle / trial), {"x": X})["y"]
        )


def test_a_small_bundle_keeps_its_weights_in_its_graphs(tmp_path: Path) -> None:
    with open_for_update(tmp_path / "b", must_exist=False) as writer:
        for name in ("a", "b"):
            assert store_graph(writer, product(w=random(64, 64)), name)[1] == ()


def test_one_array_under_two_names_is_written_once(tmp_path: Path) -> None:
    shared = random(64, 64)
    with open_for_update(tmp_path / "b", must_exist=False) as writer:
        _, (data,) = store_graph(writer, product(a=shared, b=shared), "tied", external_above=0)
        assert (writer.bundle / data).stat().st_size == shared.nbytes


def test_kept_graphs_let_go_of_the_memory_that_small_constants_were_part_of(tmp_path: Path) -> None:
    """safetensors loads all weights of a file as one block."""
    block = random(64 * 64 + 64)
    gone = weakref.ref(block)
    with open_for_update(tmp_path / "b", must_exist=False) as writer:
        graph = product(a=block[64:].reshape(64, 64)).with_nodes((), {"bias": block[:64]})
        (kept,) = io.store_weights(writer, graph)
        np.testing.assert_array_equal(kept.constants["bias"], block[:64])
        del block, graph
        assert gone() is None


def test_kept_graphs_hold_views_of_files_and_compute_the_same(tmp_path: Path) -> None:
    graph = product(a=random(64, 64).T, b=random(64, 64, seed=1))
    with open_for_update(tmp_path / "b", must_exist=False) as writer:
        kept, other = io.store_weights(writer, graph, product(a=graph.constants["a"], c=random(64, 64, seed=2)))
        places = {weights.place_of(array) for array in (*kept.constants.values(), *other.constants.values())}
        assert None not in places and len(places) == 3 and len({place.file for place in places if place}) == 2
        for optimize in (False, True):
            np.testing.assert_allclose(
                open_session(kept, optimize=optimize)({"x": X})["y"], run(graph, {"x": X})["y"], rtol=1e-5, atol=1e-5
            )
        assert io.store_weights(writer, kept)[0].constants["a"] is kept.constants["a"]


def test_a_file_next_to_those_of_the_bundle_is_not_one_of_them(tmp_path: Path) -> None:
    """An export's source may be in the same folder as the bundle's graphs."""
    folder = tmp_path / "b" / io.GRAPHS
    folder.mkdir(parents=True)
    (tmp_path / "b" / "manifest.json").write_text("{")  # a bundle, if a damaged one
    io.save(product(w=random(64, 64)), folder / "mine.onnx", external_above=0)
    with open_for_update(tmp_path / "b", must_exist=False) as writer:
        _, (data,) = store_graph(writer, io.load(folder / "mine.onnx"), "body", external_above=0)
        assert data in writer.files and data != f"{io.GRAPHS}/mine.onnx.data"


@pytest.mark.parametrize("optimize", [False, True])
def test_weights_too_large_for_one_message_are_handed_over_next_to_it(
    tmp_path: Path, optimize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "EXTERNAL_ABOVE", 0)
    path = tmp_path / "w"
    path.write_bytes(random(64, 64).tobytes())
    mapped = weights.view(weights.map_file(path), 0, np.dtype(np.float32), (64, 64))
    graph = product(a=mapped, b=random(64, 64, seed=1), c=random(64, 64, seed=2).T)
    expected = X @ graph.constants["a"] @ graph.constants["b"] @ graph.constants["c"]
    np.testing.assert_allclose(open_session(graph, optimize=optimize)({"x": X})["y"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("optimize", [False, True])
def test_weights_in_memory_may_be_unread_or_returned(optimize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime drops unread ones while loading, and once looked for them in vain if their values were passed
    separately.
    """
    monkeypatch.setattr(io, "EXTERNAL_ABOVE", 0)
    graph = product(a=random(64, 64))
    graph = graph.with_nodes(graph.nodes, {"unread": random(64, 64, seed=1), "asked": random(64, 64, seed=2)})
    found = open_session(graph, ["asked"], optimize)({"x": X})
    assert list(found) == ["y", "asked"]
    np.testing.assert_allclose(found["y"], X @ graph.constants["a"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found["asked"], graph.constants["asked"])


def test_passes_move_weights_without_copying_them() -> None:
    w, v = random(64, 32), random(64, 48)
    text = """(float[64, 64] x1) => (float[32, 32] y) {
        wt = Transpose<perm=[1, 0]>(w) t = MatMul(wt, x1) wtt = Transpose<perm=[1, 0]>(wt) y = MatMul(t, wtt)
    }"""
    folded = fold_constants(graph_of_text(text, w=w))
    assert folded.ops() == ("MatMul", "MatMul")
    assert all(np.shares_memory(folded.constants[name], w) for name in ("wt", "wtt"))
    parts = split_product(v)
    assert len(parts) == 2 and all(np.shares_memory(part, v) for part in parts)


def split_product(weight: Array) -> list[Array]:
    """Return the weight [64, 48] of a product with a Concat as it is split between the two sources."""
    ports = "(float[batch, 16] a, float[batch, 48] b) => (float[batch, 48] y)"
    concat = graph_of_text(f"{ports} {{ c = Concat<axis=1>(a, b) y = MatMul(c, v) }}", v=random(64, 48))
    split = split_concat(replace(concat, constants={"v": weight}))
    return [array for name, array in split.constants.items() if name != "v"]


def test_weights_in_16_bits_are_split_without_becoming_float32() -> None:
    weight = np.ones((64, 48), np.float16)
    parts = [stored_array(part) for part in split_product(widen(weight))]
    assert len(parts) == 2 and all(part is not None and np.shares_memory(part, weight) for part in parts)


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with (
        pytest.raises(UserError, match=r"b needs 16\.4 kB more, and its disk has 10 kB free") as failure,
        open_for_update(tmp_path / "b", must_exist=False) as writer,
    ):
        io.store(writer, product(w=random(64, 64)), "body", external_above=0)
    assert failure.value.fix == "free space or give another path" and not (tmp_path / "b").exists()
