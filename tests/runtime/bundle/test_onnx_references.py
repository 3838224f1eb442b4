"""The files that an ONNX file refers to, found without loading them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fewstep.runtime.bundle import onnx_references
from fewstep.runtime.bundle.onnx_references import KEY, external_data_files


def elsewhere(location: str) -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[16], data_location=TensorProto.EXTERNAL)
    for key, value in {"offset": "0", "location": location, "length": "64"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]) -> onnx.GraphProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16]) for name in ("x", "y")]
    return helper.make_graph(nodes, "g", values[:1], values[1:], weights)


def write(folder: Path, made: onnx.ModelProto) -> Path:
    (folder / "g.onnx").write_bytes(made.SerializeToString())
    return folder / "g.onnx"


ADD = helper.make_node("Add", ["x", "w"], ["y"])
INNER = graph([ADD], [elsewhere("in a branch")])
PLACES = {
    "an initializer": helper.make_model(graph([ADD], [elsewhere("here")])),
    "an attribute": helper.make_model(graph([helper.make_node("Constant", [], ["w"], value=elsewhere("here"))], [])),
    "a branch": helper.make_model(graph([helper.make_node("If", ["x"], ["y"], then_branch=INNER)], [])),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_location_is_found_wherever_a_tensor_can_be(tmp_path: Path, place: str) -> None:
    found = external_data_files(write(tmp_path, PLACES[place]))
    assert found == {"in a branch" if place == "a branch" else "here"}


def test_sparse_weights_and_training_are_entered_too(tmp_path: Path) -> None:
    made = helper.make_model(graph([ADD], []))
    made.graph.sparse_initializer.add().values.CopyFrom(elsewhere("sparse"))
    made.training_info.add().initialization.initializer.append(elsewhere("training"))
    assert external_data_files(write(tmp_path, made)) == {"sparse", "training"}


def test_words_in_other_places_are_no_references(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.frombuffer(b"location" * 8, np.float32), "location")
    assert external_data_files(write(tmp_path, helper.make_model(graph([ADD], [weight])))) == set()


def test_damage_is_a_value_error_at_every_length(tmp_path: Path) -> None:
    path = write(tmp_path, PLACES["a branch"])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            assert external_data_files(path) <= {"in a branch"}
        except ValueError as error:
            assert str(error).startswith("it ")


def length(content: bytes) -> bytes:
    """Return the length of a field, as protobuf writes it."""
    size, written = len(content), b""
    while size > 127:
        size, written = size >> 7, written + bytes([size & 127 | 128])
    return written + bytes([size])


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    content = b"\x12" + length(KEY) + KEY  # a name
    for tag in (b"\x32", b"\x2a", b"\x0a") * 300 + (b"\x3a",):  # attribute.g, node.attribute, graph.node; model.graph
        content = tag + length(content) + content
    (tmp_path / "g.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="nested too deeply"):
        external_data_files(tmp_path / "g.onnx")


def test_functions_are_refused(tmp_path: Path) -> None:
    """In a few kilobytes they can describe more nodes than any engine can open."""
    function = helper.make_function("d", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [])
    with pytest.raises(ValueError, match="defines functions"):
        external_data_files(write(tmp_path, helper.make_model(graph([ADD], []), functions=[function])))


def test_too_many_weights_in_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_references, "MOST_REFERENCES", 2)
    assert external_data_files(write(tmp_path, helper.make_model(graph([ADD], [elsewhere("w")] * 2)))) == {"w"}
    with pytest.raises(ValueError, match="more than 2 weights in other files"):
        external_data_files(write(tmp_path, helper.make_model(graph([ADD], [elsewhere("w")] * 3))))
