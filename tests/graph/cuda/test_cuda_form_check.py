"""A form with other results than its graph is not written."""

import logging
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.graph.bake import network_form
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.cuda.cuda_form import cuda_form
from fewstep.graph.cuda.cuda_form_check import form_problem
from fewstep.graph.engines import cuda_forms
from fewstep.graph.engines.build import build
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.files import io
from fewstep.graph.graph import Extent, Graph
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import entry, write_graphs
from tests.cuda_forms import NORM
from tests.onnx_text import graph_of_text


@pytest.fixture
def norm(tmp_path: Path) -> Path:
    constants = {"mix": np.eye(4, dtype=np.float32)[:, :, None, None], "groups": np.int64([0, 2, 18])}
    graph = graph_of_text(NORM, **constants, ones=[1.0, 2.0], zeros=[0.0, 0.5], whole=np.int64([0, 4, 3, 3]))
    return write_graphs(tmp_path / "norm", {"body": graph}, {"float32": {}})


def load(bundle: Path) -> tuple[Graph, GraphEntry]:
    stored = open_bundle(bundle).body("float32").graph
    return io.load(bundle / stored.file, root=bundle), stored


def without_silu(graph: Graph) -> Graph:
    """The form with a GroupNorm that lacks the SiLU."""
    form = cuda_form(graph)
    nodes = (
        replace(node, attributes={**node.attributes, "activation": 0}) if node.op == "GroupNorm" else node
        for node in form.nodes
    )
    return form.with_nodes(nodes)


def test_a_form_with_equal_outputs_has_no_problem(norm: Path) -> None:
    graph, stored = load(norm)
    assert form_problem(graph, cuda_form(graph), stored) == ""


def test_other_outputs_are_a_problem(norm: Path) -> None:
    graph, stored = load(norm)
    assert form_problem(graph, without_silu(graph), stored).endswith(" of the largest output")


def test_a_node_before_its_input_is_a_problem(norm: Path) -> None:
    graph, stored = load(norm)
    form = cuda_form(graph)
    assert form_problem(graph, form.with_nodes(reversed(form.nodes)), stored) == (
        "one of its nodes reads a tensor that a later node computes"
    )


def test_a_missing_tensor_is_a_problem(norm: Path) -> None:
    graph, stored = load(norm)
    form = cuda_form(graph)
    name = form.nodes[0].output
    assert form_problem(graph, form.with_nodes(form.nodes[1:]), stored) == (
        f"the graph reads {name!r}, which no node computes before it"
    )


def test_a_graph_with_weights_in_files_is_not_compared(norm: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph, stored = load(norm)
    stored = msgspec.structs.replace(stored, data=("graphs/body.onnx.data",))
    with caplog.at_level(logging.INFO, "fewstep"):
        assert form_problem(graph, without_silu(graph), stored) == ""
    assert caplog.messages == [
        f"the CUDA form of {stored.file} is not compared with the original graph: its weights are large"
    ]


def free_sizes() -> Graph:
    """A convolution and a GroupNorm with SiLU of an image with a free height."""
    text = NORM.replace("3, 3]", "height, 3]").replace("whole)", "sizes)").replace(" c =", " sizes = Shape(x) c =")
    constants = {"mix": np.eye(4, dtype=np.float32)[:, :, None, None], "groups": np.int64([0, 2, -1])}
    return graph_of_text(text, **constants, ones=[1.0, 2.0], zeros=[0.0, 0.5])


def test_free_sizes_have_their_usual_numbers() -> None:
    graph = replace(free_sizes(), extents={"height": Extent(6, 2, 12, 2)})
    form, stored = cuda_form(graph), entry("graphs/body.onnx", graph)
    assert form.ops().count("GroupNorm") == 1 and form_problem(graph, form, stored) == ""
    assert form_problem(graph, without_silu(graph), stored).endswith(" of the largest output")


def test_a_size_without_a_range_is_a_problem() -> None:
    graph = free_sizes()
    problem = form_problem(graph, graph, entry("graphs/body.onnx", graph))
    assert problem == "graphs/body.onnx does not give the range of 'height'"


def test_build_writes_no_form_with_other_outputs(
    norm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda_forms, "cuda_form", without_silu)
    with caplog.at_level(logging.WARNING, "fewstep"):
        built = build(BuildOptions(norm, "onnxruntime-cuda", precision="float32"))
    assert built.manifest.engines == ()
    (line,) = caplog.messages
    assert line.startswith("float32 cannot be rewritten for onnxruntime-cuda: its outputs differ by ")


def test_bake_refuses_a_form_with_other_outputs(norm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_form, "cuda_form", without_silu)
    file = norm.with_name("run.onnx")
    with pytest.raises(UserError, match="cannot be converted to float32-cuda: its outputs differ by ") as raised:
        bake(BakeOptions(norm, parse_plan_text("ddim:2"), file, body="float32-cuda", batch=2, unroll=True))
    assert raised.value.fix == "bake --body float32" and not file.exists()
