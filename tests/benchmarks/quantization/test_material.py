"""benchmarks/quantization: the inputs of every tool, its results, and the operations that count as int8."""

import json
import runpy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks.quantization import run_tools, tool_inputs
from benchmarks.quantization.contenders import TOOLS, Contender
from benchmarks.quantization.int8_coverage import in_float, measure_coverage, multiplying, pair_operations
from benchmarks.quantization.join_biases import join_bias
from benchmarks.quantization.run_tools import quantize, reason
from benchmarks.quantization.tool_inputs import Material, write_material
from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.graph.files import io
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import index
from fewstep.graph.passes.bias import separate_bias
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from fewstep.runtime import load
from tests.calibration.lowering.bodies.small_body import body, feeds
from tests.calibration.test_calibrate import denoiser, write_bundle

OURS = {"onnxruntime": ["h1_product"]}


def test_material_is_named_after_all_that_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = denoiser()
    biased = graph.with_nodes(
        part
        for node in graph.nodes
        for part in (
            (replace(node, outputs=("h1_product",)), Node("Add", ("h1_product", "b1"), ("h1",)))
            if node.output == "h1"
            else (node,)
        )
    )
    biased = replace(biased, constants=graph.constants | {"b1": np.full((1, 16, 1, 1), 0.5, np.float32)})
    sampler = load(write_bundle(tmp_path / "bundle", biased))
    plan, seeds = sampler.compile("ddim:2", 2.0), range(1000, 1004)
    found = write_material(sampler, plan, seeds, tmp_path / "work", OURS)
    given = io.load(found.folder / "float.onnx")
    (joined,) = [node for node in given.nodes if len(node.inputs) == 3]
    assert (joined.name, joined.output) == ("h1_product", "h1")
    np.testing.assert_array_equal(given.constants[joined.inputs[2]], np.full(16, 0.5, np.float32))
    assert [node.op for node in found.graph.nodes].count("Add") == 1 and "Add" not in given.ops()
    operations = json.loads((found.folder / "operations.json").read_text())
    assert operations["ours"] == OURS and operations["all"] == [node.name for node in given.nodes]
    (first, second) = sorted((found.folder / "feeds").glob("*.npz"))
    assert {len(value) for path in (first, second) for value in np.load(path).values()} == {8}  # guided: two rows each

    assert write_material(sampler, plan, seeds, tmp_path / "work", OURS).folder == found.folder
    assert write_material(sampler, plan, range(1000, 1005), tmp_path / "work", OURS).folder != found.folder
    monkeypatch.setattr(tool_inputs, "chosen_operations", lambda *given: operations | {"outer": []})
    assert write_material(sampler, plan, seeds, tmp_path / "work", OURS).folder != found.folder


def test_conditions_that_nothing_draws_are_in_the_feeds(tmp_path: Path) -> None:
    sampler = load(write_bundle(tmp_path / "bundle", denoiser()))
    plan, seeds = sampler.compile("ddim:2", None), range(1000, 1004)
    folders = {}
    for labels in ([0, 1, 1, 0], [1, 1, 1, 0]):
        own = {"class": np.array(labels)}
        found = write_material(sampler, plan, seeds, tmp_path / "work", OURS, conditions=own)
        row = np.load(min((found.folder / "feeds").glob("*.npz")))["row"].ravel()
        np.testing.assert_allclose(row - row.min(), np.array(labels), atol=1e-5)
        folders[found.folder] = labels
    assert len(folders) == 2


def test_nncf_is_given_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("nncf", "nncf.quantization", "nncf.quantization.range_estimator", "onnx")
    for name in parts:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[parts[2]], "RangeEstimatorParametersSet", object, raising=False)
    script = runpy.run_path(str(run_tools.SCRIPTS / "nncf_ptq.py"))
    np.savez(tmp_path / "0.npz", x=np.arange(6).reshape(3, 2), row=np.arange(3))
    np.savez(tmp_path / "1.npz", x=np.arange(6, 10).reshape(2, 2), row=np.arange(3, 5))
    rows = [script["one_row"](item) for item in script["rows"](tmp_path)]
    assert [row["row"].tolist() for row in rows] == [[0], [1], [2], [3], [4]]
    assert [row["x"].tolist() for row in rows[2:4]] == [[[4, 5]], [[6, 7]]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ValueError('of /here/float.onnx')", "ValueError: of /here/float.onnx"),
        ("raise SystemExit(3)", "its process ended with 3"),
        ("import time; time.sleep(60)", "took more than 2 s"),
        (None, "its Python does not start: No such file or directory"),
    ],
)
def test_a_tool_that_fails_says_why_without_advice(
    code: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ort_static.py").write_text(code or "")
    monkeypatch.setattr(run_tools, "SCRIPTS", tmp_path)
    if "sleep" in (code or ""):
        monkeypatch.setattr(run_tools, "TIMEOUT", 2.0)
    line = Contender("onnxruntime", TOOLS["ort_static"], "defaults")
    with pytest.raises(UserError) as raised:
        quantize(line, Material(tmp_path, denoiser()), sys.executable if code else "/no/python")
    assert raised.value.what == reason(raised.value, ()) == said
    assert list(tmp_path.iterdir()) == [tmp_path / "ort_static.py"]


def test_reasons_have_no_paths_of_this_machine(tmp_path: Path) -> None:
    material, environment = tmp_path / "work/0a1b", tmp_path / "nncf"
    error = ValueError(f"[{material}/float.onnx] and {environment}/lib/x.py of node /down/conv\nmore")
    found = reason(error, [material, environment, Path("/")])
    assert found == "[0a1b/float.onnx] and nncf/lib/x.py of node /down/conv"
    assert reason(UserError("it broke", "do this"), []) == "it broke" and reason(KeyError(), []) == "KeyError"


def test_pairs_count_where_they_stand_at_both_inputs() -> None:
    pairs = ("a1", "h2.weight", "a3")
    given = body()
    graph = with_pairs(given, pairs)
    assert pair_operations(graph) == {"h2"}
    assert measure_coverage("tensorrt", given, graph).int8_ops == ("h2",)
    assert measure_coverage("tensorrt", given, graph).int8_macs == 32 * 16 * 9 * 64


@pytest.mark.parametrize("given", [body(), denoiser()], ids=["with biases and tokens", "with activations"])
def test_onnxruntime_tells_what_it_runs_in_float(given: Graph) -> None:
    graph = given.with_nodes(replace(node, name=node.output) for node in given.nodes)
    assert in_float(given, graph) == count_operation_macs(given).keys()
    assert measure_coverage("onnxruntime", given, graph).int8_macs == 0


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("h2", "h2"),
        ("h1_biased_nchwc", "h1"),
        ("output_nchwc", "h4"),
        ("mixed/MatmulTransposeFusion/", "mixed"),
        ("mixed/MatmulTransposeFusion//MatMulScaleFusion/", "mixed"),
        ("fused mixed_biased/MatMulAddFusion_token_2", "mixed"),
    ],
)
def test_names_that_onnxruntime_gives_lead_to_the_operation(name: str, operation: str) -> None:
    assert multiplying(index(body()), name) == operation


def test_a_name_that_leads_to_several_operations_or_to_none_is_refused() -> None:
    for name in ("residual", "unknown"):
        with pytest.raises(UserError, match=f"calls a float operation '{name}'"):
            multiplying(index(body()), name)


def test_an_operation_that_the_float_graph_does_not_have_is_refused() -> None:
    given = body()
    graph = with_pairs(given, ("a1", "h2.weight"))
    renamed = graph.with_nodes(replace(node, name="other") if node.output == "h2" else node for node in graph.nodes)
    with pytest.raises(UserError, match="'other' runs in int8"):
        measure_coverage("tensorrt", given, renamed)


@pytest.mark.parametrize("given", [body(), denoiser()], ids=["with biases and tokens", "with activations"])
def test_biases_are_joined_and_nothing_is_computed_or_counted_differently(given: Graph) -> None:
    given = given.with_nodes(replace(node, name=node.output) for node in given.nodes)
    joined = join_bias(given)
    biased = [node for node in joined.nodes if node.op == "Conv" and len(node.inputs) == 3]
    assert len(biased) == len(given.nodes) - len(joined.nodes)
    outputs = [value.name for value in given.outputs]
    values = feeds(given)
    expected, found = run(given, values, outputs), run(joined, values, outputs)
    assert all(np.abs(found[name] - expected[name]).max() <= 1e-6 * np.abs(expected[name]).max() for name in outputs)
    assert {node.name for node in joined.nodes} >= count_operation_macs(given).keys()
    assert in_float(given, joined) == count_operation_macs(given).keys()
    assert separate_bias(joined).ops() == given.ops()


def test_what_int8_covers_is_the_same_with_biases_joined() -> None:
    given, pairs = body(), ("a1", "h2.weight", "a3")
    joined = join_bias(given)
    assert len(given.nodes) - len(joined.nodes) == 5
    for engine in ("onnxruntime", "openvino", "tensorrt"):
        if engine == "openvino":
            pytest.importorskip("openvino", reason="openvino is not installed")
        before, after = (measure_coverage(engine, given, with_pairs(graph, pairs)) for graph in (given, joined))
        assert before == after
        # onnxruntime's kernels also need the pair after an operation
        assert after.int8_ops == (() if engine == "onnxruntime" else ("h2",))


def test_a_product_that_is_read_twice_or_returned_keeps_its_bias_apart() -> None:
    given = body()
    again = given.with_nodes([*given.nodes, Node("Neg", ("h2",), ("h2_again",), name="h2_again")])
    assert sum(len(node.inputs) == 3 for node in join_bias(again).nodes if node.op == "Conv") == 4
    returned = replace(given, outputs=(*given.outputs, replace(given.outputs[0], name="h2")))
    assert sum(len(node.inputs) == 3 for node in join_bias(returned).nodes if node.op == "Conv") == 4


def with_pairs(graph: Graph, tensors: Sequence[str]) -> Graph:
    """Add QuantizeLinear and DequantizeLinear in front of convolutions that read these tensors, with node names as
    tools write them.
    """
    nodes = []
    for name in tensors:
        nodes.append(Node("QuantizeLinear", (name, "scale", "zero"), (f"{name}_q",)))
        nodes.append(Node("DequantizeLinear", (f"{name}_q", "scale", "zero"), (f"{name}_dq",)))
    for node in graph.nodes:
        read = tuple(f"{name}_dq" if node.op == "Conv" and name in tensors else name for name in node.inputs)
        nodes.append(replace(node, name=node.name or node.output, inputs=read))
    constants = {**graph.constants, "scale": np.float32(0.1), "zero": np.int8(0)}
    return replace(graph, nodes=tuple(nodes), constants=constants)
