"""Weights in separate files, in every layout of links: `link_layouts.py` and `user_link_layouts.py`
in tests/runtime have the right answers."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from fewstep.graph.files import io
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.links import Home
from tests.refusals import refuses
from tests.runtime.link_layouts import READ, Files, Layout
from tests.runtime.user_link_layouts import LAYOUTS

W = np.arange(2048, dtype=np.float32)


def model(location: str) -> bytes:
    """y = x + w, with w in another file."""
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=W.shape, data_location=TensorProto.EXTERNAL)
    w.external_data.add(key="location", value=location)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", W.size]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [w])
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    return content


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_weights_are_read_or_refused_in_words_about_links(layout: Layout, tmp_path: Path) -> None:
    path = layout.make(tmp_path, Files(model, W.tobytes()))
    if layout.right == READ:
        np.testing.assert_array_equal(io.load(path).constants["w"], W)
        return
    with refuses(layout.right):
        io.load(path)
    with pytest.raises(UserError):
        io.sha256(path)


@pytest.mark.parametrize(
    "layout", [layout for layout in LAYOUTS if layout.right == READ], ids=lambda layout: layout.name
)
def test_onnxruntime_gets_the_weights_of_every_layout_that_is_read(layout: Layout, tmp_path: Path) -> None:
    """Also those of a hub's shared store, which onnxruntime 1.31 refuses by itself: as a source, and as a bundle."""
    path, options = layout.make(tmp_path, Files(model, W.tobytes())), ort.SessionOptions()
    whole = onnx.load(path, load_external_data=False)
    arrays = io.take_external(whole, path)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    source = ort.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    of_bundle = OnnxRuntime(threads=1).open(path, home=Home(path.parent, path))
    for session in (source, of_bundle.session):
        np.testing.assert_array_equal(session.run(None, {"x": np.zeros((1, W.size), np.float32)})[0][0], W)
