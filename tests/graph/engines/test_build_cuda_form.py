"""`fewstep build --backend onnxruntime-cuda` writes the form of a body, keeps it, and makes it again."""

import logging
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from fewstep.cli.verbs.build import verb
from fewstep.graph.cuda.cuda_form import form_size
from fewstep.graph.engines.build import build
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.files import io
from fewstep.plans.errors import UserError
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime.backends.onnxruntime_cuda_form import (
    BACKEND,
    find_form,
)
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import SILENT
from tests.bundles import change_bundle, write_graphs
from tests.cuda_forms import ATTENTION, NORM, write_attention  # noqa: F401 - a fixture
from tests.onnx_text import graph_of_text
from tests.refusals import refuses


def test_build_writes_the_form_and_keeps_it(attention: Path) -> None:
    manifest = open_bundle(attention).manifest
    (entry,) = manifest.engines
    assert (entry.body, entry.backend, entry.device) == ("float32", BACKEND, "any")
    assert io.load(attention / entry.file, root=attention).ops() == ("MultiHeadAttention",)
    assert manifest.bodies["float32"].graph.file == "graphs/body.onnx"  # the portable graph stays
    made = build(BuildOptions(attention, BACKEND, precision="float32"))
    assert (made.built, made.kept) == ((), (entry,)) and open_bundle(attention).manifest == manifest


def test_the_command_names_the_form_and_the_rule(attention: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it would be measured")
    (entry,) = open_bundle(attention).manifest.engines
    outcome = verb(BuildOptions(attention, BACKEND, precision="float32"), SILENT)
    assert outcome.shown == (
        f"{attention / entry.file}: float32 for {BACKEND} (up to date)",
        "float32: the form was not measured (onnxruntime has no CUDAExecutionProvider here); "
        "by rule the portable graph runs in float32",
    )
    assert str(outcome.then).startswith(f"Next: fewstep run {attention} --precision float32 --backend {BACKEND}")


def test_by_rule_the_form_runs_where_attention_is_long(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it would be measured")
    body = graph_of_text(ATTENTION.replace("batch, 5,", "batch, 1024,"), third=np.float32(0.3))
    path = write_graphs(tmp_path / "long", {"body": body}, {"float32": {}})
    asked = BuildOptions(path, BACKEND, precision="float32")
    assert build(asked).built and not build(asked).built  # the second finds the form up to date
    form = find_form(open_bundle(path), "float32")
    assert form is not None and form.has_long_attention and not form.has_channels_last
    assert verb(asked, SILENT).shown[1].endswith("by rule the form runs in float32")


def test_a_damaged_key_is_made_again_by_build(attention: Path) -> None:
    (entry,) = open_bundle(attention).manifest.engines
    change_bundle(attention, {entry.sidecar: b"{}"})
    (damage,) = verify(VerifyOptions(attention)).damages
    assert damage.fix == f"fewstep build {attention} --backend {BACKEND} --precision float32"


def test_a_body_without_gain_gets_no_form(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fewstep"):
        assert build(BuildOptions(tiny_bundle, BACKEND, precision="float32")).manifest.engines == ()
    kernels = form_size(io.load(tiny_bundle / "graphs/body.onnx", root=tiny_bundle)).kernels
    assert [message for message in caplog.messages if "is not rewritten" in message] == [
        f"float32 is not rewritten for {BACKEND}: the result would have {kernels} kernels, and the graph has {kernels}"
    ]


def test_the_form_of_a_float16_body_has_norms_with_float32_weights(tmp_path: Path) -> None:
    constants = {"mix": np.eye(4, dtype=np.float32)[:, :, None, None], "groups": np.int64([0, 2, 18])}
    graph = graph_of_text(NORM, **constants, ones=[1.0, 2.0], zeros=[0.0, 0.5], whole=np.int64([0, 4, 3, 3]))
    path = write_graphs(tmp_path / "norm", {"body": graph}, {"float32": {}})
    (entry,) = build(BuildOptions(path, BACKEND, precision="float16")).manifest.engines
    form, found = io.load(path / entry.file, root=path), find_form(open_bundle(path), "float16")
    (norm,) = (node for node in form.nodes if node.op == "GroupNorm")
    assert [form.constants[name].dtype for name in norm.inputs[1:]] == [np.float32] * 2
    assert form.constants["float16(mix)"].dtype == np.float16
    assert found is not None and found.has_channels_last


def test_an_outdated_form_is_written_again(attention: Path) -> None:
    old = open_bundle(attention).manifest.engines
    content = (attention / "graphs/body.onnx").read_bytes()
    change_bundle(attention, {"graphs/body.onnx": content.replace(b"scores", b"points")})
    assert find_form(open_bundle(attention), "float32") is None
    made = build(BuildOptions(attention, BACKEND, precision="float32"))
    assert len(made.built) == 1 and made.manifest.engines == made.built != old
    assert find_form(open_bundle(attention), "float32") is not None


@pytest.mark.parametrize(
    ("text", "reason"),
    [("abc", "neither a number nor shapes"), ("-1", "neither a number nor shapes"), ("0", "batches 1, 0, ")],
)
def test_a_batch_that_is_no_number_is_refused(attention: Path, text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        verb(BuildOptions(attention, BACKEND, precision="float32", opt_batch=text), SILENT)


def test_a_bfloat16_body_without_kernels_is_refused(tmp_path: Path) -> None:
    graph = graph_of_text("(float[batch, 5, 8] x) => (float[batch, 5, 8] v) { v = Elu(x) }")
    path = write_graphs(tmp_path / "elu", {"body": graph}, {"float32": {}})
    with refuses(("onnxruntime-cuda", "bfloat16", "Elu")):
        build(BuildOptions(path, BACKEND, precision="bfloat16"))
    assert "bfloat16" not in open_bundle(path).manifest.bodies
