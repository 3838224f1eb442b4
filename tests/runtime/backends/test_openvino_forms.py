"""Graphs as OpenVINO reads them: Fourier transforms against numpy's, and what is refused by name."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fewstep.runtime.backends.openvino import OpenVino, read
from fewstep.runtime.backends.openvino_forms import computed_wrong, readable
from fewstep.runtime.bundle.onnx_references import referred_files

SHAPE = (2, 3, 6, 8)


def model(*nodes: onnx.NodeProto, given: tuple[int, ...] = SHAPE, **constants: np.ndarray) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, given)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "graph", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def dft(
    axis: int, inverse: int = 0, onesided: int = 0, **more: np.ndarray
) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    node = helper.make_node("DFT", ["x", "", "axis"], ["y"], name="fourier", inverse=inverse, onesided=onesided)
    return node, {"axis": np.array(axis)}


def written(folder: Path, given: onnx.ModelProto) -> Path:
    (folder / "graph.onnx").write_bytes(given.SerializeToString())
    return folder / "graph.onnx"


def on_openvino(file: Path, x: np.ndarray) -> np.ndarray:
    pytest.importorskip("openvino", reason="openvino is not installed")
    backend = OpenVino(cached=False)
    core = backend.core()
    compiled = backend.compile(core, read(core, file), file.name, {"x": list(x.shape)})
    return np.array(compiled({"x": x})[0])


def pairs(x: np.ndarray) -> np.ndarray:
    """Complex numbers as ONNX has them: real and imaginary parts along a last axis."""
    return np.stack((x.real, x.imag), axis=-1)


NOISE = np.random.default_rng(0).standard_normal((2, *SHAPE))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_fourier_transforms_go_along_their_axis(axis: int, tmp_path: Path) -> None:
    given = (NOISE[0] + 1j * NOISE[1]).astype(np.complex64)
    half = np.fft.rfft(NOISE[0], axis=axis).astype(np.complex64)
    even = {"n": 2 * (half.shape[axis] - 1)}
    cases = [
        (0, 0, NOISE[0][..., None], pairs(np.fft.fft(NOISE[0], axis=axis))),
        (0, 0, pairs(given), pairs(np.fft.fft(given, axis=axis))),
        (1, 0, pairs(given), pairs(np.fft.ifft(given, axis=axis))),
        (0, 1, NOISE[0][..., None], pairs(half)),
        (1, 1, pairs(half), np.fft.irfft(half, axis=axis, **even)[..., None]),
    ]
    for inverse, onesided, x, expected in cases:
        node, constants = dft(axis, inverse, onesided)
        found = on_openvino(written(tmp_path, model(node, given=x.shape, **constants)), x.astype(np.float32))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_the_axis_is_written_beside_the_input_and_nothing_else_changes(tmp_path: Path) -> None:
    node, constants = dft(2)
    file = written(tmp_path, model(node, helper.make_node("Identity", ["y"], ["z"], name="after"), **constants))
    content = readable(file)
    assert content is not None
    before, after = onnx.load(file), onnx.load_from_string(content)
    added = after.graph.node[0].attribute.pop()
    assert (added.name, added.i, added.type) == ("axis", 2, onnx.AttributeProto.INT)
    assert after == before


def test_a_graph_without_fourier_transforms_is_read_from_its_file(tmp_path: Path) -> None:
    assert readable(written(tmp_path, model(helper.make_node("Relu", ["x"], ["y"])))) is None
    opset_17 = helper.make_node("DFT", ["x"], ["y"], axis=2)
    assert readable(written(tmp_path, model(opset_17))) is None


def test_what_is_no_onnx_file_is_left_to_its_reader(tmp_path: Path) -> None:
    node, constants = dft(2)
    whole = model(node, **constants).SerializeToString()
    for content in (b"", whole[:-3], b"\xff" * 40 + b"DFT"):
        (tmp_path / "graph.onnx").write_bytes(content)
        assert readable(tmp_path / "graph.onnx") is None and computed_wrong(tmp_path / "graph.onnx") == ()


def test_operations_that_openvino_computes_wrong_are_named(tmp_path: Path) -> None:
    sizes = {"sizes": np.array([2, 3, 3, 4])}
    cubic = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], name="down", mode="cubic", antialias=1)
    edge = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="cubic", antialias=1, exclude_outside=1)
    plain = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="cubic", antialias=0)
    last, constants = dft(-2)
    assert computed_wrong(written(tmp_path, model(cubic, **sizes))) == ("Resize 'down' with antialias",)
    assert computed_wrong(written(tmp_path, model(edge, **sizes))) == ("Resize 'y' with antialias and exclude_outside",)
    assert computed_wrong(written(tmp_path, model(plain, **sizes))) == ()
    named = "DFT 'fourier' along an axis that is no constant from 0 up"
    assert computed_wrong(written(tmp_path, model(last, **constants))) == (named,)
    assert computed_wrong(written(tmp_path, model(*(dft(2)[:1]), **dft(2)[1]))) == ()


def test_weights_in_a_file_of_their_own_are_found(tmp_path: Path) -> None:
    node, constants = dft(3)
    node.output[0] = "f"
    scaled = model(
        node, helper.make_node("Mul", ["f", "w"], ["y"]), given=(*SHAPE, 1), w=np.full(2, 2, np.float32), **constants
    )
    file = tmp_path / "graph.onnx"
    onnx.save(scaled, file, save_as_external_data=True, location="graph.data", size_threshold=0)
    for initializer in scaled.graph.initializer:  # the axis is small, and stays in the graph
        if initializer.name == "axis":
            initializer.CopyFrom(numpy_helper.from_array(np.array(3), "axis"))
    file.write_bytes(scaled.SerializeToString())
    assert referred_files(file) == {"graph.data"}
    found = on_openvino(file, NOISE[0][..., None].astype(np.float32))
    np.testing.assert_allclose(found, 2 * pairs(np.fft.fft(NOISE[0], axis=3)), atol=1e-4)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["graph.data", "graph.onnx"]
