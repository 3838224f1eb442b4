"""The form of a body for ONNX Runtime's CUDA provider: when it runs, by the same code on the CPU's provider."""

import logging
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from fewstep.cli.verbs.build import verb
from fewstep.graph import io
from fewstep.graph.cuda.cuda_form import form_size
from fewstep.graph.engines.build import BuildOptions, build
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER
from fewstep.report.choosing import cuda_forms
from fewstep.report.choosing.cuda_forms import measure_forms, open_calls
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime.backends import LoadedGraph, find_graph, onnxruntime_cuda, onnxruntime_cuda_form
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from fewstep.runtime.backends.onnxruntime_cuda_form import (
    BACKEND,
    FormChoice,
    FormSession,
    find_form,
    prefers_form,
    remember_choice,
)
from fewstep.runtime.backends.openvino_agreement import random_feeds, relative_difference
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine.gpu import Gpu
from fewstep.runtime.machine.packages import OnnxRuntimeImport
from fewstep.runtime.progress import SILENT
from tests.bundles import changed, write_graphs
from tests.onnx_text import written

CPU = "CPUExecutionProvider"
ATTENTION = """(float[batch, 5, 8] x) => (float[batch, 5, 8] v) {
    keys = Transpose <perm = [0, 2, 1]> (x) scaled = Mul(x, third) scores = MatMul(scaled, keys)
    shares = Softmax <axis = -1> (scores) v = MatMul(shares, x)
}"""
NORM = """(float[batch, 4, 3, 3] x) => (float[batch, 4, 3, 3] v) {
    c = Conv(x, mix) g = Reshape(c, groups) i = InstanceNormalization(g, ones, zeros) n = Reshape(i, whole)
    s = Sigmoid(n) v = Mul(n, s)
}"""


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The CPU's provider in place of CUDA's, which computes the same MultiHeadAttention; returns settings of its
    sessions."""
    seen = list[dict[str, str]]()

    def settings(device: int, cuda_graph: bool = False) -> dict[str, str]:
        return {"cuda_graph": str(cuda_graph)}

    open_session = onnxruntime_cuda.open_session

    def open_with(module: Any, graph: Path, chosen: tuple[str, dict[str, str]]) -> Any:
        seen.append(chosen[1])
        return open_session(module, graph, (CPU, {}))

    monkeypatch.setattr(onnxruntime_cuda, "PROVIDER", CPU)
    monkeypatch.setattr(onnxruntime_cuda, "provider_settings", settings)
    monkeypatch.setattr(onnxruntime_cuda, "open_session", open_with)
    return seen


@pytest.fixture
def attention(tmp_path: Path) -> Path:
    """A bundle of one attention in float32, with its form."""
    path = write_graphs(tmp_path / "attention", {"body": written(ATTENTION, third=np.float32(0.3))}, {"float32": {}})
    build(BuildOptions(path, BACKEND, precision="float32"))
    return path


def run_alike(network: LoadedGraph, bundle: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32)
    expected = OnnxRuntime().load(open_bundle(bundle), "float32")({"x": x})["v"]
    for _ in range(3):
        np.testing.assert_allclose(network({"x": x})["v"], expected, rtol=1e-5, atol=1e-6)


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


def test_a_damaged_key_is_made_again_by_build(attention: Path) -> None:
    (entry,) = open_bundle(attention).manifest.engines
    changed(attention, {entry.sidecar: b"{}"})
    (damage,) = verify(VerifyOptions(attention)).damages
    assert damage.fix == f"fewstep build {attention} --backend {BACKEND} --precision float32"


def test_a_body_without_gain_gets_no_form(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fewstep"):
        assert build(BuildOptions(tiny_bundle, BACKEND, precision="float32")).manifest.engines == ()
    kernels = form_size(io.load(tiny_bundle / "graphs/body.onnx", root=tiny_bundle)).kernels
    assert [each for each in caplog.messages if "no form" in each] == [
        f"float32 gets no form for {BACKEND}: it would have {kernels} kernels, and the graph has {kernels}"
    ]


def test_the_form_of_a_float16_body_has_norms_with_float32_weights(tmp_path: Path) -> None:
    constants = {"mix": np.eye(4, dtype=np.float32)[:, :, None, None], "groups": np.int64([0, 2, 18])}
    graph = written(NORM, **constants, ones=[1.0, 2.0], zeros=[0.0, 0.5], whole=np.int64([0, 4, 3, 3]))
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
    changed(attention, {"graphs/body.onnx": content.replace(b"scores", b"points")})
    assert find_form(open_bundle(attention), "float32") is None
    made = build(BuildOptions(attention, BACKEND, precision="float32"))
    assert len(made.built) == 1 and made.manifest.engines == made.built != old
    assert find_form(open_bundle(attention), "float32") is not None


@pytest.mark.parametrize("chosen", [True, False], ids=["form", "portable"])
def test_the_caller_may_decide(attention: Path, provider: list[dict[str, str]], chosen: bool) -> None:
    network = OnnxRuntimeCuda(form=chosen).load(open_bundle(attention), "float32")
    assert isinstance(network, FormSession) == chosen and provider == [{"cuda_graph": "True"}]
    run_alike(network, attention)


def test_channels_last_is_a_setting_of_forms_with_norms(attention: Path, provider: list[dict[str, str]]) -> None:
    bundle = open_bundle(attention)
    form = find_form(bundle, "float32")
    assert form is not None and not form.has_channels_last
    OnnxRuntimeCuda()._opener(onnxruntime, bundle, "float32", replace(form, has_channels_last=True))(True)
    assert provider == [{"cuda_graph": "True", "prefer_nhwc": "1"}]


def test_the_rule_where_nothing_was_measured(attention: Path, provider: list[dict[str, str]]) -> None:
    form = find_form(open_bundle(attention), "float32")
    assert form is not None
    assert prefers_form(form, "float16", "1.31", 0) and not prefers_form(form, "float32", "1.31", 0)
    assert not isinstance(OnnxRuntimeCuda().load(open_bundle(attention), "float32"), FormSession)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [(FormChoice(0.9), True), (FormChoice(1.1), False), (FormChoice(0.5, agrees=False), False)],
    ids=["faster", "slower", "other outputs"],
)
def test_what_was_measured_decides(
    attention: Path, provider: list[dict[str, str]], choice: FormChoice, expected: bool
) -> None:
    form = find_form(open_bundle(attention), "float32")
    assert form is not None
    remember_choice(form, onnxruntime.__version__, 0, choice)
    assert isinstance(OnnxRuntimeCuda().load(open_bundle(attention), "float32"), FormSession) == expected
    assert not isinstance(OnnxRuntimeCuda(device=1).load(open_bundle(attention), "float32"), FormSession)


def test_a_provider_without_the_operations_runs_the_portable_graph(
    attention: Path, provider: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inner = onnxruntime_cuda.open_session

    def refuse(module: Any, graph: Path, chosen: tuple[str, dict[str, str]]) -> Any:
        if BACKEND in graph.name:
            raise UserError("Could not find an implementation for MultiHeadAttention(1)", "none")
        return inner(module, graph, chosen)

    monkeypatch.setattr(onnxruntime_cuda, "open_session", refuse)
    with caplog.at_level(logging.WARNING, "fewstep"):
        network = OnnxRuntimeCuda(form=True).load(open_bundle(attention), "float32")
    assert [each.getMessage() for each in caplog.records] == [
        "float32 runs as the portable graph: Could not find an implementation for MultiHeadAttention(1)"
    ]
    run_alike(network, attention)


class Failing:
    """A form whose calls fail."""

    def __init__(self, reason: str) -> None:
        self.reason, self.calls = reason, 0

    def __call__(self, feeds: Any) -> Any:
        self.calls += 1
        raise RuntimeError(self.reason)


def test_a_form_that_fails_where_the_portable_graph_does_not_never_runs_again(
    attention: Path, caplog: pytest.LogCaptureFixture
) -> None:
    form, opened = Failing("GroupNorm in CUDA does not support the input"), list[int]()
    network = FormSession(
        "float32", form, lambda: opened.append(1) or OnnxRuntime().load(open_bundle(attention), "float32")
    )
    with caplog.at_level(logging.WARNING, "fewstep"):
        run_alike(network, attention)
    assert (form.calls, opened, network.runs_form) == (1, [1], False)
    assert [each.getMessage() for each in caplog.records] == [
        "float32 runs as the portable graph: GroupNorm in CUDA does not support the input"
    ]


def test_a_form_that_cannot_be_recorded_never_runs_again(
    attention: Path, provider: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kernel by kernel it would be slower than the portable graph as a CUDA graph."""
    monkeypatch.setattr(onnxruntime_cuda, "DEVICE", "cpu")
    network = OnnxRuntimeCuda(form=True).load(open_bundle(attention), "float32")
    run, names = onnxruntime.InferenceSession.run_with_iobinding, list[int]()

    def fail_first(self: Any, *arguments: Any) -> None:
        names.append(1)
        if len(names) == 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        run(self, *arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", fail_first)
    with caplog.at_level(logging.WARNING, "fewstep"):
        run_alike(network, attention)
        run_alike(network, attention)
    assert isinstance(network, FormSession) and not network.runs_form and len(names) > 1
    assert caplog.messages == ["float32 runs as the portable graph: operation not permitted when stream is capturing"]


def test_feeds_that_no_graph_takes_leave_the_form(attention: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = FormSession("float32", Failing("wrong"), lambda: OnnxRuntime().load(open_bundle(attention), "float32"))
    with pytest.raises(UserError):
        network({"x": np.zeros((1, 5, 9), np.float32)})
    assert network.runs_form and not caplog.records


def test_lack_of_memory_is_no_reason_to_leave_the_form(attention: Path) -> None:
    network = FormSession("float32", Failing("CUDA failure 2: out of memory"), lambda: pytest.fail("opened"))
    with pytest.raises(RuntimeError, match="out of memory"):
        network({})
    assert network.runs_form


def measure(bundle: Path, monkeypatch: pytest.MonkeyPatch, calls: Any) -> list[Any]:
    here = OnnxRuntimeImport(onnxruntime.__version__, (onnxruntime_cuda.PROVIDER,), "")
    monkeypatch.setattr(cuda_forms, "PROVIDER", onnxruntime_cuda.PROVIDER)
    monkeypatch.setattr(cuda_forms, "this_onnxruntime", lambda: here)
    monkeypatch.setattr(cuda_forms, "open_calls", calls)
    return [*measure_forms(open_bundle(bundle), DENOISER, "float32", 2)]


def wait(path: Path, network: str, name: str, is_form: bool, rows: int) -> Any:
    """Calls that wait: the form half as long."""
    return {"": lambda: time.sleep(0.002 if is_form else 0.004) or {"v": np.ones(2)}}


def differ(path: Path, network: str, name: str, is_form: bool, rows: int) -> Any:
    return {"": lambda: {"v": np.ones(2) + is_form}}


def refuse_form(path: Path, network: str, name: str, is_form: bool, rows: int) -> Any:
    if is_form:
        raise UserError("no such operation", "")
    return {"": lambda: {"v": np.ones(2)}}


def test_the_faster_one_is_measured_and_remembered(attention: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = measure(attention, monkeypatch, wait)
    form = find_form(open_bundle(attention), "float32")
    assert form is not None and found.choice.agrees and 0.3 < found.choice.ratio < 0.8
    assert prefers_form(form, "float32", onnxruntime.__version__, 0)
    assert str(found).startswith("float32: the form takes 0.") and str(found).endswith("so the form runs")


@pytest.mark.parametrize(
    ("calls", "reason"),
    [(differ, "the form's outputs differ by 1 of the largest output"), (refuse_form, "no such operation")],
)
def test_a_form_that_is_wrong_or_refused_never_runs(
    attention: Path, monkeypatch: pytest.MonkeyPatch, calls: Any, reason: str
) -> None:
    (found,) = measure(attention, monkeypatch, calls)
    form = find_form(open_bundle(attention), "float32")
    assert form is not None and not prefers_form(form, "float16", onnxruntime.__version__, 0)
    assert str(found) == f"float32: the portable graph runs, because {reason}"


def die(path: Path, network: str, name: str, is_form: bool, rows: int) -> Any:
    if is_form:
        os._exit(9)
    return {"": lambda: {"v": np.ones(2)}}


def lack_memory_to_open(path: Path, network: str, name: str, is_form: bool, rows: int) -> Any:
    if is_form:
        raise UserError("CUDA failure 2: out of memory", "")
    return {"": lambda: {"v": np.ones(2)}}


def lack_memory(path: Path, network: str, name: str, is_form: bool, rows: int) -> Any:
    def run() -> Any:
        if is_form:
            raise RuntimeError("CUDA failure 2: out of memory")
        return {"v": np.ones(2)}

    return {"": run}


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        (die, "the process of float32, form "),
        (lack_memory_to_open, "CUDA failure 2: out of memory"),
        (lack_memory, "float32, form failed: CUDA failure 2: out of memory"),
    ],
)
def test_a_failure_that_may_pass_decides_nothing(
    attention: Path, monkeypatch: pytest.MonkeyPatch, calls: Any, reason: str
) -> None:
    (found,) = measure(attention, monkeypatch, calls)
    form = find_form(open_bundle(attention), "float32")
    assert found.choice is None and found.reason.startswith(reason)
    assert form is not None and prefers_form(form, "float16", onnxruntime.__version__, 0)


def test_another_gpu_or_driver_is_measured_again(attention: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = find_form(open_bundle(attention), "float32")
    assert form is not None
    found = []
    for name, driver in (("H100", "580"), ("H200", "580"), ("H100", "590"), ("H100", "580")):
        gpu = Gpu(name, "sm90", driver, None, None)
        monkeypatch.setattr(onnxruntime_cuda_form, "these_gpus", lambda gpu=gpu: (gpu,))
        if not found:
            remember_choice(form, "1.31", 0, FormChoice(0.9))
        found.append(prefers_form(form, "float32", "1.31", 0))
    assert found == [True, False, False, True]


def test_a_form_that_cannot_be_opened_is_measured_with_its_reason(
    attention: Path, provider: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(module: Any, graph: Path, chosen: tuple[str, dict[str, str]]) -> Any:
        raise UserError(f"no memory for {graph.suffix}", "none")

    monkeypatch.setattr(onnxruntime_cuda, "open_session", refuse)
    with pytest.raises(UserError, match="no memory for .onnx"):
        open_calls(attention, DENOISER, "float32", True, 2)


def test_a_body_without_a_form_names_the_command(tiny_bundle: Path) -> None:
    with pytest.raises(
        UserError, match="float32 has no form for onnxruntime-cuda; fewstep build .* --precision float32"
    ):
        OnnxRuntimeCuda().load_form(open_bundle(tiny_bundle), "float32")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("abc", "neither a number nor shapes"), ("-1", "neither a number nor shapes"), ("0", "batches 1, 0, ")],
)
def test_a_batch_that_is_no_number_is_refused(attention: Path, text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        verb(BuildOptions(attention, BACKEND, precision="float32", opt_batch=text), SILENT)


@pytest.mark.parametrize(("text", "rows"), [(None, 2), ("32", 32), ("x:3x5x8", 3)])
def test_forms_are_measured_at_the_preferred_batch(
    attention: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, rows: int
) -> None:
    found = []
    monkeypatch.setattr(cuda_forms, "measure_forms", lambda bundle, network, body, rows: found.append(rows) or [])
    verb(BuildOptions(attention, BACKEND, precision="float32", opt_batch=text), SILENT)
    assert found == [rows]


def test_without_the_provider_the_rule_is_said(attention: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("has the provider")
    (found,) = measure_forms(open_bundle(attention), DENOISER, "float32", 2)
    assert str(found) == (
        "float32: the form was not measured (onnxruntime has no CUDAExecutionProvider here); "
        "by rule the portable graph runs in float32"
    )


@pytest.mark.parametrize("is_form", [False, True])
def test_the_measured_calls_are_those_of_the_backend(
    attention: Path, provider: list[dict[str, str]], is_form: bool
) -> None:
    outputs = open_calls(attention, DENOISER, "float32", is_form, 2)[""]()
    assert outputs["v"].shape == (2, 5, 8)


@pytest.mark.gpu
@pytest.mark.skipif("CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="has no provider")
@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-4), ("float16", 2e-2)])
def test_the_form_of_the_shipped_denoiser_agrees_on_a_gpu(
    exported_fashion_mnist: Path, tmp_path: Path, precision: Any, limit: float
) -> None:
    """GroupNorm and channels-last convolutions of the provider itself."""
    path = shutil.copytree(exported_fashion_mnist, tmp_path / "bundle")
    build(BuildOptions(path, BACKEND, precision=precision))
    bundle = open_bundle(path)
    network = OnnxRuntimeCuda(form=True).load(bundle, precision)
    for rows in (1, 2, 2, 2, 16):
        feeds = random_feeds(find_graph(bundle, "float32"), {"batch": rows}, rows)
        expected = OnnxRuntime().load(bundle, "float32")(feeds)
        assert relative_difference(expected, network(feeds)) < limit
    assert isinstance(network, FormSession) and network.runs_form
