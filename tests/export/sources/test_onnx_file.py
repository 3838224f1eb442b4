"""An .onnx file as the source: every form of such files, and the messages for those that do not fit."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fewstep.cli.main import main
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.export.sources.spec_file import read_spec
from fewstep.export.verification.verify import Verification
from fewstep.graph.cuts.prologue import PreparedDenoiser
from fewstep.graph.prepare import prepare
from fewstep.plans.errors import UserError
from fewstep.report.bundle_contents import InspectOptions, inspect
from fewstep.runtime.sampling.loading import load
from tests.export.sources.onnx_models import CHANNELS, LABELS, SIZE, model, rename_tensors
from tests.export.verify_export import verify, verify_source
from tests.refusals import refuses
from tests.runtime.link_layouts import Files, hub

SPEC: dict[str, Any] = {
    "name": "tiny",
    "x_shape": [CHANNELS, SIZE, SIZE],
    "prediction": "epsilon",
    "schedule": {"kind": "linear"},
    "x": "sample",
    "time": "timestep",
    "output": "out",
    "conditions": [{"name": "class", "input": "label", "null": LABELS - 1, "low": 0, "high": LABELS - 2}],
}


def written(folder: Path, proto: onnx.ModelProto, **changes: Any) -> tuple[Path, Path]:
    """Write the two files."""
    file, spec = folder / "model.onnx", folder / "spec.json"
    onnx.save(proto, file)
    spec.write_text(json.dumps({name: value for name, value in (SPEC | changes).items() if value is not None}))
    return file, spec


def read(files: tuple[Path, Path]) -> tuple[PreparedDenoiser, Verification]:
    return verify_source(load_source(str(files[0]), files[1]))


def append_node(proto: onnx.ModelProto, op: str, inputs: str, output: str, **attributes: Any) -> onnx.ModelProto:
    """The model with one more node, whose result is its output."""
    proto.graph.node.append(helper.make_node(op, inputs.split(" "), [output], **attributes))
    proto.graph.output[0].name = output
    return proto


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "rows", "tolerance"),
    [
        ({}, 2, 1e-6),
        ({"opset": 17}, 2, 1e-6),
        ({"opset": 22}, 2, 1e-6),
        ({"batch": 1}, 2, 1e-6),
        ({"batch": 2}, 2, 1e-6),
        ({"time": "scalar"}, 2, 1e-6),
        ({"time": "one"}, 2, 1e-6),
        ({"time": "one", "batch": 2}, 2, 1e-6),
        ({"time": "scalar", "batch": 1, "time_type": "int64"}, 2, 1e-6),
        ({"time_type": "int64"}, 2, 1e-6),
        ({"time_type": "double"}, 2, 1e-6),
        ({"dtype": np.float16}, 2, 5e-3),
        ({"dtype": np.float16, "time": "scalar", "opset": 17, "batch": 1}, 2, 5e-3),
        ({"returned": 2 * CHANNELS}, 2, 1e-6),
    ],
    ids=str,
)
def test_a_file_of_any_form_becomes_a_verified_graph(
    form: dict[str, Any], rows: int, tolerance: float, tmp_path: Path
) -> None:
    """Time and label leave the loop in each form: the body takes only x and the rows."""
    prepared, table = read(written(tmp_path, model(**form)))
    assert table.worst.relative < tolerance and table.reference == "model.onnx"
    assert [value.name for value in prepared.body.inputs][0] == "x" and len(prepared.body.inputs) == 1 + rows
    assert all(a.dtype != np.float16 for a in prepared.body.constants.values())
    assert not {"Cast", "Shape", "Expand", "Identity"} & set(prepared.body.ops())


def test_two_nodes_may_have_one_name(tmp_path: Path) -> None:
    """Names of nodes have no meaning in ONNX, but onnxruntime refuses a file with two equal ones."""
    proto = model()
    for node in proto.graph.node:
        node.name = "same"
    prepared, verification = read(written(tmp_path, proto))
    assert verification.worst.relative <= 1e-6
    plain, _ = read(written(tmp_path, model()))
    assert prepared.body.ops() == plain.body.ops()


def test_one_time_for_all_that_is_used_as_a_number_stays_in_the_body(tmp_path: Path) -> None:
    proto = model(time="scalar")
    (node,) = (node for node in proto.graph.node if node.op_type == "Unsqueeze")
    node.op_type, node.input[:] = "Mul", ["part", "thousandth"]
    prepared, table = read(written(tmp_path, proto))
    assert table.worst.relative < 1e-6
    assert "time" in [value.name for value in prepared.body.inputs]


def test_weights_next_to_the_file_are_read_and_belong_to_its_hash(tmp_path: Path) -> None:
    inside = load_source(*map(str, written(tmp_path, model())[:1]), tmp_path / "spec.json")
    onnx.save(
        model(opset=17), tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=100
    )
    files = (tmp_path / "model.onnx", tmp_path / "spec.json")
    source = load_source(str(files[0]), files[1])
    assert verify_source(source)[1].worst.relative < 1e-6 and source.sha256 != inside.sha256
    content = bytearray((tmp_path / "w.bin").read_bytes())
    content[0] ^= 1
    (tmp_path / "w.bin").write_bytes(content)
    assert load_source(str(files[0]), files[1]).sha256 != source.sha256


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_in_a_hub_cache_is_read_as_its_copy(tmp_path: Path, shared: bool) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    file, spec = written(copy, model())
    onnx.save(model(opset=17), file, save_as_external_data=True, location="w.bin", size_threshold=100)
    linked = hub(tmp_path / "hub", Files(lambda _: file.read_bytes(), (copy / "w.bin").read_bytes()), shared=shared)
    source = load_source(str(linked), spec)
    assert verify_source(source)[1].worst.relative < 1e-6
    assert source.sha256 == load_source(str(file), spec).sha256


def test_names_of_ours_that_the_file_uses_otherwise_do_not_meet(tmp_path: Path) -> None:
    proto = rename_tensors(model(), sample="time", timestep="x", out="group", h="output")
    prepared, table = read(written(tmp_path, proto, x="time", time="x", output="group"))
    assert table.worst.relative < 1e-6
    assert prepared.prologue is not None and [v.name for v in prepared.prologue.inputs] == ["time", "label"]


def test_a_scheduler_of_distilled_networks_says_that_a_network_is_one(tmp_path: Path) -> None:
    fields = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "prediction_type": "epsilon"}
    for name, is_its in (("LCMScheduler", True), ("DDIMScheduler", False)):
        file, spec = written(tmp_path, model(), scheduler={"_class_name": name, **fields})
        assert export(ExportOptions(str(file), tmp_path / name, spec, verify="quick")).distilled is is_its


def test_a_bundle_from_a_file_samples_as_the_file_does(tmp_path: Path) -> None:
    file, spec = written(tmp_path, model(), grid="karras", distilled=True)
    manifest = export(ExportOptions(str(file), tmp_path / "bundle", spec))
    assert manifest.provenance.commands == ("fewstep export model.onnx -o BUNDLE --spec spec.json",)
    sampler = load(tmp_path / "bundle")
    plan = sampler.compile("ddim:4")
    assert (manifest.grid, plan.name, manifest.distilled) == ("karras", "ddim:4@karras", True)
    u = np.random.default_rng(0).standard_normal((2, CHANNELS, SIZE, SIZE)).astype(np.float32)
    (found,) = sampler.step_network(plan, 2, {"class": [1, 3]})(0, plan.steps[0], u)
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    times = np.full(2, plan.steps[0].time, np.float32)
    (expected,) = session.run(None, {"sample": u, "timestep": times, "label": np.array([1, 3])})
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_graph_that_is_not_the_file_any_more_is_refused(tmp_path: Path) -> None:
    source = load_source(str(written(tmp_path, model())[0]), tmp_path / "spec.json")
    traced = source.trace()
    wrong = replace(
        traced, graph=traced.graph.with_nodes(traced.graph.nodes, {"weight": traced.graph.constants["weight"] * 2})
    )
    with refuses(("model.onnx", "'h'", "time 999, batch 1")):
        verify(source.spec, wrong, prepare(wrong.graph))


def test_a_fixed_batch_that_cannot_be_freed_says_how_to_export_it(tmp_path: Path) -> None:
    proto = model(batch=2)
    append_node(append_node(proto, "ReduceMean", "out zero", "mean"), "Sub", "out mean", "less")
    with pytest.raises(UserError, match="a dynamic batch"):
        read(written(tmp_path, proto, output="less"))


@pytest.mark.parametrize(
    ("form", "changes", "says"),
    [
        ({}, {"x": "x"}, r"model.onnx has no input 'x' for x, only sample float32 \[batch, 2, 4, 4\], timestep"),
        ({}, {"conditions": []}, r"does not describe the input label int64 \[batch\] of model.onnx; add a condition"),
        ({}, {"output": None}, r"has no output 'output', only out float32"),
        ({}, {"x_shape": [2, 4, 8]}, r"where the spec says shape \[2, 4, 8\]"),
        ({"returned": 3}, {}, r"returns out float32 \[batch, 3, 4, 4\], not shape \[2, 4, 4\]"),
        ({}, {"conditions": [{**SPEC["conditions"][0], "dtype": "int32"}]}, "the spec says int32; give dtype int64"),
        ({}, {"schedule": None}, "spec.json has no field 'schedule'"),
        ({}, {"shape": 3}, "spec.json has an unknown field 'shape'; use only name, x_shape"),
        ({}, {"prediction": "eps"}, "field 'prediction' of spec 'tiny' is wrong"),
        ({"opset": 23}, {}, r"model.onnx .*export it again with opset_version=20"),
    ],
    ids=["x", "condition", "output", "shape", "channels", "dtype", "schedule", "field", "prediction", "opset"],
)
def test_what_does_not_fit_is_one_line(
    form: dict[str, Any], changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        read(written(tmp_path, newer_model() if "opset" in form else model(**form), **changes))


def newer_model() -> onnx.ModelProto:
    """An operation that opset 20 does not have."""
    proto = model(opset=23)
    proto.graph.node.append(helper.make_node("RMSNormalization", ["mix", "tokens_scale"], ["nothing"], axis=-1))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(SIZE * SIZE, np.float32), "tokens_scale"))
    return proto


@pytest.mark.parametrize(
    ("content", "spec", "says"),
    [
        (b"no onnx", "{}", "model.onnx cannot be read as ONNX .*; write model.onnx again"),
        (None, "{}", "there is no file"),
        (b"", None, "does not define its prediction and its schedule; describe it: --spec SPEC.json"),
        (b"", "[]", "is not a JSON object"),
        (b"", "{", "is not a JSON object"),
    ],
)
def test_files_that_are_none_are_refused_in_one_line(
    tmp_path: Path, content: bytes | None, spec: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    if spec is not None:
        (tmp_path / "spec.json").write_text(json.dumps(SPEC) if spec == "{}" else spec)
    with pytest.raises(UserError, match=says):
        load_source(str(tmp_path / "model.onnx"), tmp_path / "spec.json" if spec is not None else None).trace()


WITHOUT_TORCH = """
import sys
for name in ("torch", "onnxscript", "diffusers"):
    sys.modules[name] = None  # as if it were not installed
from fewstep.cli.main import main
sys.exit(main(["export", "model.onnx", "--spec", "spec.json", "-o", "bundle"]))
"""


def test_no_torch_is_needed(tmp_path: Path) -> None:
    written(tmp_path, model(opset=17))
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0, process.stderr
    assert "verified against model.onnx at 21 points" in process.stdout


def test_the_spec_in_the_documents_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "export.md").read_text()
    (tmp_path / "spec.json").write_text(page.partition("```json\n")[2].partition("```")[0])
    spec = read_spec(tmp_path / "spec.json")
    assert spec.conditions[0].null == 10 and (spec.x, spec.time, spec.output) == ("sample", "timestep", "out_sample")


def test_several_outputs_stay_where_the_spec_counts_them(tmp_path: Path) -> None:
    file, spec = written(tmp_path, model(returned=2 * CHANNELS), heads=2)
    manifest = export(ExportOptions(str(file), tmp_path / "bundle", spec))
    assert manifest.heads == 2
    x = np.random.default_rng(0).standard_normal((3, CHANNELS, SIZE, SIZE)).astype(np.float32)
    found = load(tmp_path / "bundle").evaluate(x, 500.0, {"class": [0, 1, 2]})
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    given = {"sample": x, "timestep": np.full(3, 500, np.float32), "label": np.arange(3)}
    np.testing.assert_allclose(found, session.run(None, given)[0], atol=1e-5)


def test_a_restoration_network_names_what_noising_reverts_to(tmp_path: Path) -> None:
    file, spec = written(
        tmp_path, model(), towards="degraded", schedule={"kind": "residual-shift"}, prediction="sample"
    )
    assert export(ExportOptions(str(file), tmp_path / "bundle", spec)).towards == "degraded"


def open_axis(proto: onnx.ModelProto, axis: int) -> onnx.ModelProto:
    """Return the model with one axis of its output left open, as exporters do."""
    proto.graph.output[0].type.tensor_type.shape.dim[axis].dim_param = "any"
    return proto


def test_a_learned_variance_is_left_out_where_the_file_leaves_its_channels_open(tmp_path: Path) -> None:
    prepared, table = read(written(tmp_path, open_axis(model(returned=2 * CHANNELS), 1)))
    assert table.worst.relative < 1e-6
    assert prepared.body.outputs[0].shape == ("batch", CHANNELS, SIZE, SIZE)


def test_an_output_of_another_size_is_refused_before_a_bundle_holds_it(tmp_path: Path) -> None:
    for returned in (CHANNELS + 1, 3 * CHANNELS):
        with refuses((f"returns out float32 [batch, {returned}, 4, 4]", "not shape [2, 4, 4]")):
            read(written(tmp_path, open_axis(model(returned=returned), 1)))
    half = append_node(model(), "AveragePool", "out", "small", kernel_shape=[2, 2], strides=[2, 2])
    for axis in (2, 3):
        open_axis(half, axis)
    with refuses("returns small float32 [batch, 2, 2, 2]"):
        read(written(tmp_path, half, output="small"))


def test_ai_onnx_is_the_default_domain(tmp_path: Path) -> None:
    proto = model(opset=17)
    for named in (*proto.opset_import, *proto.graph.node):
        named.domain = "ai.onnx"
    prepared, table = read(written(tmp_path, proto))
    assert table.worst.relative < 1e-6 and not any(node.domain for node in prepared.body.nodes)


def test_a_graph_that_rounds_to_float16_inside_is_judged_as_one(tmp_path: Path) -> None:
    proto = append_node(model(), "Cast", "out", "rounded", to=TensorProto.FLOAT16)
    append_node(proto, "Cast", "rounded", "wide", to=TensorProto.FLOAT)
    _, table = read(written(tmp_path, proto, output="wide"))
    assert table.tolerance == 2e-2 and 1e-5 < table.worst.relative < 1e-3  # the bundle does not round


def test_a_file_that_draws_at_random_is_refused(tmp_path: Path) -> None:
    proto = append_node(append_node(model(), "RandomNormalLike", "out", "noise"), "Add", "out noise", "noisy")
    with refuses(("'noise'", "RandomNormalLike"), "remove its random"):
        read(written(tmp_path, proto, output="noisy"))


def test_whole_numbers_are_no_prediction(tmp_path: Path) -> None:
    proto = append_node(model(), "Cast", "out", "whole", to=TensorProto.INT64)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with refuses("returns whole int64", "name x, time, output"):
        read(written(tmp_path, proto, output="whole"))


def test_a_batch_below_one_is_refused(tmp_path: Path) -> None:
    proto = model()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -5
    with refuses("takes -5 samples in 'sample'", "a batch of 1 or more"):
        read(written(tmp_path, proto))


@pytest.mark.parametrize(("op", "inputs"), [("Add", "out"), ("Identity", "")])
def test_a_graph_that_is_not_valid_is_refused_before_a_pass_reads_it(op: str, inputs: str, tmp_path: Path) -> None:
    proto = append_node(model(), op, inputs, "odd")
    with pytest.raises(UserError, match="onnxruntime .* cannot load model.onnx: "):
        read(written(tmp_path, proto, output="odd"))


def test_a_node_that_makes_nothing_is_passed_over(tmp_path: Path) -> None:
    proto = model()
    proto.graph.node.append(helper.make_node("Nothing", [], []))
    assert read(written(tmp_path, proto))[1].worst.relative < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_an_operation_that_onnx_does_not_define_is_no_traceback(
    precision: Literal["float32", "float16"], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """FusedConv is a float operation with a weight, in onnxruntime's domain, which its optimizer writes."""
    proto = model()
    (convolution,) = (node for node in proto.graph.node if node.op_type == "Conv")
    convolution.op_type, convolution.domain = "FusedConv", "com.microsoft"
    convolution.attribute.append(helper.make_attribute("activation", "Relu"))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    file, spec = written(tmp_path, proto)
    manifest = export(ExportOptions(str(file), tmp_path / "bundle", spec, precision=precision))
    assert list(manifest.bodies) == [precision]
    found = inspect(InspectOptions(tmp_path / "bundle")).bodies[precision]
    unknown = {
        "float32": "a FusedConv, an operation of onnxruntime's own",
        "float16": "no float32 body to count them in",
    }
    assert unknown[precision] in found.uncounted and found.shares == found.multiplying == ()
    main(["inspect", str(tmp_path / "bundle")])
    assert "matrix products and convolutions are not counted:" in capsys.readouterr().out


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(field="schedule", value={"kind": "linear", "\n": 0})
@given(field=st.sampled_from([*SPEC, "heads", "towards", "shape"]), value=JSON)
def test_whatever_a_spec_says_it_is_one_or_refused_in_one_line(tmp_path: Path, field: str, value: Any) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({**SPEC, field: value}))
    try:
        spec = read_spec(tmp_path / "spec.json")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert getattr(spec, field) is not None or field == "towards"
