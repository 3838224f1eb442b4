"""Graphs from files of any opset and back, their outputs, and packing."""

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.files import io
from fewstep.graph.files.commit import open_for_update
from fewstep.graph.files.io import from_model, load
from fewstep.graph.files.output_files import atomic_file, check_writable, write_atomic
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.files.upgrade import opset_of, to_opset
from fewstep.graph.graph import OPSET, Graph
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.report.bundle_contents import InspectOptions, inspect
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle, content_of
from tests.graph.small_graphs import assert_same, node, small, value
from tests.onnx_text import graph_of_text, parse_graph
from tests.refusals import refuses


def large_gemm() -> Graph:
    """A Gemm whose weight (16 KB) is large enough to leave the graph, and whose bias is not."""
    rng = np.random.default_rng(0)
    text = "(float[batch, 64] x) => (float[batch, 64] y) { y = Gemm<transB=1>(x, w, b) }"
    return graph_of_text(text, w=rng.standard_normal((64, 64)), b=rng.standard_normal(64))


@pytest.mark.parametrize("limit", [0, io.EXTERNAL_ABOVE])
def test_a_graph_comes_back_as_it_was_written(tmp_path: Path, limit: int) -> None:
    written = io.save(large_gemm(), tmp_path / "g.onnx", limit)
    assert len(written) == (2 if limit == 0 else 1)
    model = onnx.load(tmp_path / "g.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10 and [opset.version for opset in model.opset_import] == [20]
    again = io.load(tmp_path / "g.onnx")
    assert (again.inputs, again.outputs, again.ops()) == (large_gemm().inputs, large_gemm().outputs, large_gemm().ops())
    assert_same(large_gemm(), again)


def test_the_hash_covers_external_weights(tmp_path: Path) -> None:
    _, data = io.save(large_gemm(), tmp_path / "g.onnx", external_above=0)
    before = io.sha256(tmp_path / "g.onnx")
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    assert io.sha256(tmp_path / "g.onnx") != before


def test_a_bundle_holds_weights_under_the_name_of_their_content(tmp_path: Path) -> None:
    with open_for_update(tmp_path / "b", must_exist=False) as writer:
        file, (data,) = io.store(writer, large_gemm(), "body", external_above=0)
        assert io.load(tmp_path / "b" / file).ops() == ("Gemm",)
        assert set(writer.files) == {file, data} and data.endswith(".data")


def test_nodes_of_one_name_get_their_own() -> None:
    relu = node("Relu", "x", "a")
    graph = small(
        [value("x", "batch", 2)], [value("y", "batch", 2)], [relu, replace(relu, inputs=("a",), outputs=("y",))]
    )
    assert run(graph, {"x": -np.ones((1, 2), np.float32)})["y"].tolist() == [[0, 0]]


def external(path: Path, **changes: str) -> None:
    """Save with external weights and change the graph's entries about them."""
    io.save(large_gemm(), path, external_above=0)
    model = onnx.load(path, load_external_data=False)
    for entry in next(t for t in model.graph.initializer if t.external_data).external_data:
        entry.value = changes.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())


OPSETS = 'opset_import: ["": 20, "f": 1]'
PORTS = f"<ir_version: 8, {OPSETS}> g (float[batch] x, bool c) => (float[batch] y)"
BRANCH = "b () => (float[batch] z) { z = Relu(x) }"
CALLS = ["c = Neg(a)", *(f"b = f.F{n}(a) c = f.F{n}(b)" for n in range(5))]  # each calls the one before twice
FORMS = {
    "control flow": f"{PORTS} {{ y = If(c)<then_branch={BRANCH}, else_branch={BRANCH}> }}",
    "reads 'lost', which no node computes": f"{PORTS} {{ y = Add(x, lost) }}",
    "contains ONNX functions": " ".join(
        [f"{PORTS} {{ y = f.F5(x) }}"]
        + [f'<domain: "f", {OPSETS}> F{n} (a) => (c) {{ {call} }}' for n, call in enumerate(CALLS)]
    ),
}


def cut(path: Path, external_above: int, size: int) -> None:
    """Save, and keep only the first bytes of the graph, or of its weights."""
    *_, last = io.save(large_gemm(), path, external_above)
    last.write_bytes(last.read_bytes()[:size])


@pytest.mark.parametrize(
    ("says", "damage"),
    [
        ("truncated or not ONNX", lambda path: path.write_bytes(b"")),
        ("cannot be read as ONNX", lambda path: path.write_bytes(b"not an ONNX file at all")),
        ("cannot be read as ONNX", lambda path: path.write_bytes(bytes(range(256)) * 40)),
        ("Is a directory", lambda path: path.mkdir()),
        ("is missing", lambda path: None),
        ("cannot be read as ONNX", lambda path: cut(path, io.EXTERNAL_ABOVE, 5000)),
        ("does not hold tensor 'w'", lambda path: cut(path, 0, -1)),
        ("is missing", lambda path: external(path, location="lost.data")),
        ("outside its folder", lambda path: external(path, location="../secret")),
        ("the absolute path", lambda path: external(path, location="/etc/passwd")),
        ("does not hold tensor 'w'", lambda path: external(path, offset="-4096")),
        ("does not hold tensor 'w'", lambda path: external(path, offset="4096")),
        ("does not hold tensor 'w'", lambda path: external(path, length="16")),
        ("damaged", lambda path: external(path, length="many")),
        *((says, partial(onnx.save, onnx.parser.parse_model(text))) for says, text in FORMS.items()),
    ],
)
def test_a_bad_file_is_refused_for_what_it_is(tmp_path: Path, says: str, damage: Callable[[Path], object]) -> None:
    (tmp_path / "secret").write_bytes(b"0" * 100_000)
    path = tmp_path / "bundle" / "g.onnx"
    path.parent.mkdir()
    damage(path)
    with pytest.raises(UserError, match=says) as failure:
        io.load(path)
    assert "g.onnx" in str(failure.value)


def test_random_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    """Any bit may flip: reading returns a graph or a UserError, nothing else."""
    io.save(large_gemm(), tmp_path / "g.onnx", external_above=0)
    content = (tmp_path / "g.onnx").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 3):
            damaged[position] ^= 1 << rng.integers(8)
        (tmp_path / "g.onnx").write_bytes(damaged)
        with contextlib.suppress(UserError):
            io.load(tmp_path / "g.onnx")


LARGE = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)


def model(opset: int, operation: str = "") -> onnx.ModelProto:
    """y = squeeze(x W [:, None]): Squeeze took its axes as an attribute before opset 13."""
    squeeze = "y = Squeeze(column, axes)" if opset >= 13 else "y = Squeeze<axes=[1]>(column)"
    text = f"product = MatMul(x, w) column = Reshape(product, shape) {operation} {squeeze}"
    constants = {"w": LARGE, "shape": np.array([-1, 1, 64])} | ({"axes": np.array([1])} if opset >= 13 else {})
    return parse_graph(f"old (float[n, 64] x) => (float[n, 64] y) {{ {text} }}", opset, **constants)


def graph_of(proto: onnx.ModelProto) -> Graph:
    return from_model(to_opset(proto, "model.onnx"))


@pytest.mark.parametrize("opset", [11, 13, 17, 19, 20, 21, 22])
def test_the_values_stay(opset: int, caplog: pytest.LogCaptureFixture) -> None:
    graph = graph_of(model(opset))
    np.testing.assert_allclose(run(graph, {"x": X})["y"], X @ LARGE, rtol=1e-5, atol=1e-5)
    assert [value.name for value in graph.inputs] == ["x"]
    assert (f"model.onnx: converted from opset {opset} to {OPSET}" in caplog.text) == (opset != OPSET)


def test_weights_in_another_file_need_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(17), path, save_as_external_data=True, location="w.bin", size_threshold=1000)
    (tmp_path / "w.bin").rename(tmp_path / "elsewhere.bin")
    converted = to_opset(onnx.load(path, load_external_data=False), "model.onnx")
    assert opset_of(converted) == OPSET
    (tmp_path / "elsewhere.bin").rename(tmp_path / "w.bin")
    onnx.save(converted, path)
    np.testing.assert_array_equal(load(path).constants["w"], LARGE)


def test_what_opset_20_does_not_have_is_one_line() -> None:
    newer = "nothing = RMSNormalization<axis=-1>(product, product)"
    with refuses(("model.onnx", "opset 23"), "export it"):
        graph_of(model(23, newer))


@pytest.mark.parametrize(
    ("line", "says"),
    [("more = Relu(nothing_makes_it)", "nothing_makes_it"), ("more = Unheard(product)", "Unheard")],
)
def test_a_graph_that_breaks_a_rule_of_onnx_is_not_blamed_on_its_opset(line: str, says: str) -> None:
    said = rf"model.onnx is not a valid ONNX graph: .*{says}.*; export the model again"
    with pytest.raises(UserError, match=said) as failure:
        graph_of(model(17, line))
    assert "\n" not in str(failure.value)


def test_a_file_is_replaced_and_nothing_lies_next_to_it(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    write_atomic(path, b"old")
    with atomic_file(path) as stream:
        np.save(stream, np.arange(3))
    np.testing.assert_array_equal(np.load(path), np.arange(3))
    assert os.listdir(tmp_path) == ["x.npy"]


def test_a_link_goes_on_leading_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("by_numpy", [False, True])
def test_a_full_disk_leaves_the_previous_file_and_is_named(tmp_path: Path, by_numpy: bool) -> None:
    resource = pytest.importorskip("resource", reason="needs a limit to what a file may have")
    path = tmp_path / "cat.npy"
    write_atomic(path, b"old")
    limits, on_limit = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError) as failure, atomic_file(path) as stream:
            if by_numpy:
                np.save(stream, np.zeros(10_000))
            else:
                stream.write(bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, on_limit)
    assert f"{path} cannot be written (" in failure.value.what and "space" in failure.value.fix
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["cat.npy"]


def test_what_the_block_raises_passes_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), atomic_file(tmp_path / "x.png"):
        raise ValueError("mine")
    assert os.listdir(tmp_path) == []


def test_a_folder_of_that_name_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    with refuses(("x.png", "Is a directory")):
        write_atomic(tmp_path / "x.png", b"new")
    assert os.listdir(tmp_path) == ["x.png"]


def test_where_a_file_can_be_made_is_found_out_before_it_is_written(tmp_path: Path) -> None:
    check_writable(tmp_path / "x.html")
    assert os.listdir(tmp_path) == []
    write_atomic(tmp_path / "x.html", b"old")
    check_writable(tmp_path / "x.html")
    assert (tmp_path / "x.html").read_bytes() == b"old"
    with refuses(("no folder", str(tmp_path / "no"))):
        check_writable(tmp_path / "no" / "x.html")
    with refuses("is a folder", "path of a file"):
        check_writable(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write")
def test_a_folder_that_takes_no_files_is_one_line() -> None:
    with refuses("/proc/x.html", "permissions of its folder"):
        check_writable(Path("/proc/x.html"))


def test_a_graph_of_a_bundle_that_is_another_is_named_with_its_ports(tiny_bundle: Path, tmp_path: Path) -> None:
    """The body's file has other content, and the manifest has the hash of that content."""
    entry = open_bundle(tiny_bundle).body("float32").graph
    other = small([value("a", "batch", 2)], [value("b", "batch", 2)], [node("Neg", "a", "b")])
    change_bundle(tiny_bundle, {entry.file: content_of(other)})
    message = rf"{entry.file} has the inputs a, but the manifest says .*x.*; copy the bundle again"
    with pytest.raises(UserError, match=message):
        load_stored(open_bundle(tiny_bundle), entry)
    with pytest.raises(UserError, match=message):
        bake(BakeOptions(tiny_bundle, parse_plan_text("ddim:2"), tmp_path / "run.onnx"))
    with pytest.raises(UserError, match=message):
        inspect(InspectOptions(tiny_bundle))
