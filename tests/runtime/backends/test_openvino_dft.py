"""Fourier transforms in the form that OpenVINO converts, compared with numpy's; and operations that it computes
wrong.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fewstep.plans.errors import UserError
from fewstep.runtime.backends.openvino import OpenVino, read_model
from fewstep.runtime.backends.openvino_agreement import find_wrong_operations

SHAPE = (2, 3, 6, 8)


def model(
    *nodes: onnx.NodeProto, given: tuple[int, ...] = SHAPE, opset: int = 20, **constants: np.ndarray
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, given)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "graph", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


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
    compiled = backend.compile(core, read_model(core, file), file.name, {"x": list(x.shape)})
    return np.array(compiled({"x": x})[0])


def pairs(x: np.ndarray) -> np.ndarray:
    """Return complex numbers as in ONNX: real and imaginary parts along a last axis."""
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


def test_an_axis_counts_from_the_end_too_and_opset_17_has_it_as_an_attribute(tmp_path: Path) -> None:
    expected = pairs(np.fft.fft(NOISE[0], axis=2))
    for opset, node in ((20, dft(-3)[0]), (17, helper.make_node("DFT", ["x"], ["y"], axis=2))):
        constants = dft(-3)[1] if opset == 20 else {}
        file = written(tmp_path, model(node, given=(*SHAPE, 1), opset=opset, **constants))
        np.testing.assert_allclose(on_openvino(file, NOISE[0][..., None].astype(np.float32)), expected, atol=1e-4)


def test_an_axis_that_is_no_constant_is_refused(tmp_path: Path) -> None:
    node, constants = dft(2)
    node.input[2] = "computed"
    size = helper.make_node("Size", ["axis"], ["computed"])
    with pytest.raises(UserError, match=r"OpenVINO \S+ cannot read graph.onnx: .*DFT"):
        on_openvino(written(tmp_path, model(size, node, given=(*SHAPE, 1), **constants)), NOISE[0][..., None])


@pytest.mark.parametrize("inputs", [["x"], ["x", "n"], ["x", "n", ""], ["x", "", ""]])
def test_an_axis_is_taken_by_default_where_that_of_each_opset_is_the_same(tmp_path: Path, inputs: list[str]) -> None:
    """1 in opset 17, the second to last since opset 20."""
    node, length = helper.make_node("DFT", inputs, ["y"]), {"n": np.array(6)} if "n" in inputs else {}
    x = NOISE[0].astype(np.float32)
    found = on_openvino(written(tmp_path, model(node, given=(3, 6, 1), **length)), x[0, :, :, :1])
    np.testing.assert_allclose(found, pairs(np.fft.fft(NOISE[0][0, :, :, 0], axis=1)), atol=1e-4)
    for opset in (17, 20)[len(inputs) > 2 :]:
        file = written(tmp_path, model(node, given=(*SHAPE, 1), opset=opset, **length))
        with pytest.raises(UserError, match=r"cannot read graph.onnx: .*DFT"):
            on_openvino(file, x[..., None])


def test_resizes_that_openvino_computes_wrong_are_named(tmp_path: Path) -> None:
    flags = {"antialias": 1, "exclude_outside": 1}
    for given, named in (
        ({}, ""),
        ({"antialias": 0, "exclude_outside": 0}, ""),
        ({"antialias": 1}, "Resize with antialias"),
        (flags, "Resize with antialias and exclude_outside"),
    ):
        node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="cubic", **given)
        assert find_wrong_operations(written(tmp_path, model(node, sizes=np.array([2, 3, 3, 4])))) == named


def test_weights_in_a_file_of_their_own_are_found(tmp_path: Path) -> None:
    node, constants = dft(3)
    node.output[0] = "f"
    scaled = model(
        node, helper.make_node("Mul", ["f", "w"], ["y"]), given=(*SHAPE, 1), w=np.full(2, 2, np.float32), **constants
    )
    file = tmp_path / "graph.onnx"
    onnx.save(scaled, file, save_as_external_data=True, location="graph.data", size_threshold=0)
    found = on_openvino(file, NOISE[0][..., None].astype(np.float32))
    np.testing.assert_allclose(found, 2 * pairs(np.fft.fft(NOISE[0], axis=3)), atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.data", "graph.onnx"]
