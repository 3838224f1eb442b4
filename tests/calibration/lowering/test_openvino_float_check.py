"""A large float graph is compared with onnxruntime part by part, and a wrong operation of OpenVINO is named."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("openvino", reason="openvino is not installed")

from fewstep.calibration.lowering import openvino_float_check
from fewstep.calibration.lowering.openvino_float_check import check_parts_agree
from fewstep.calibration.lowering.targets import openvino as target
from fewstep.graph.graph import Graph
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from tests.bundles import node
from tests.calibration.test_calibrate import denoiser, write_bundle
from tests.refusals import refuses
from tests.runtime.backends.test_openvino_agreement import with_fourier, with_resize


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_float_check, "LEAST", 0)


def open_body(folder: Path, body: Graph) -> Bundle:
    return open_bundle(write_bundle(folder / "bundle", body))


def with_shape() -> Graph:
    """The denoiser with a late Reshape, to a shape that is computed early."""
    body = denoiser()
    first, middle, (last,) = body.nodes[:2], body.nodes[2:5], body.nodes[5:]
    shape, reshape = node("Shape", "a0", "shape"), node("Reshape", "a1 shape", "shaped")
    return body.with_nodes((*first, shape, *middle, reshape, replace(last, inputs=("shaped", "w2"))))


@pytest.mark.parametrize("body", [denoiser(), with_fourier(), with_shape()])
def test_what_openvino_computes_as_onnxruntime_does_passes(tmp_path: Path, body: Graph) -> None:
    bundle = open_body(tmp_path, body)
    check_parts_agree(bundle, bundle.manifest.bodies["float32"].graph)
    assert bundle.manifest.prologue is not None
    check_parts_agree(bundle, bundle.manifest.prologue)


def test_what_it_computes_wrong_is_named_by_its_part(tmp_path: Path) -> None:
    bundle = open_body(tmp_path, with_resize())
    with refuses(("graphs/body.onnx", "'small'", "'v'")):
        check_parts_agree(bundle, bundle.manifest.bodies["float32"].graph)


def test_graphs_with_weights_in_files_are_compared_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, asked = open_body(tmp_path, denoiser()), list[str]()
    monkeypatch.setattr(target, "check_parts_agree", lambda _, entry: asked.append(entry.file))
    target.check_float_graphs(bundle)
    assert asked == []
    body = bundle.manifest.bodies["float32"]
    graph = msgspec.structs.replace(body.graph, data=("graphs/weights.data",))
    bodies = {"float32": msgspec.structs.replace(body, graphs=(graph,))}
    bundle = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, bodies=bodies))
    target.check_float_graphs(bundle)
    assert asked == ["graphs/prologue.onnx", "graphs/body.onnx"]
