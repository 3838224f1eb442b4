"""The form of a body for ONNX Runtime's CUDA provider: when it runs, through the same code on the CPU provider."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from fewstep.graph.engines.build import build
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.plans.errors import UserError
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
from tests.bundles import write_graphs
from tests.cuda_forms import ATTENTION, run_on_cpu, write_attention  # noqa: F401 - fixtures
from tests.onnx_text import graph_of_text
from tests.refusals import refuses


def run_alike(network: LoadedGraph, bundle: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32)
    expected = OnnxRuntime().load(open_bundle(bundle), "float32")({"x": x})["v"]
    for _ in range(3):
        np.testing.assert_allclose(network({"x": x})["v"], expected, rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize(("has_norms", "expected"), [(False, True), (True, False)], ids=["attention", "and norms"])
def test_by_rule_float32_runs_a_form_of_long_attention(attention: Path, has_norms: bool, expected: bool) -> None:
    form = find_form(open_bundle(attention), "float32")
    assert form is not None
    long = replace(form, has_long_attention=True, has_channels_last=has_norms)
    assert prefers_form(long, "float32", "1.31", 0) is expected and prefers_form(long, "float16", "1.31", 0)


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
    assert [record.getMessage() for record in caplog.records] == [
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
    assert [record.getMessage() for record in caplog.records] == [
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


def test_a_body_without_a_form_names_the_command(tiny_bundle: Path) -> None:
    with refuses(("float32", "onnxruntime-cuda"), "--precision float32"):
        OnnxRuntimeCuda().load_form(open_bundle(tiny_bundle), "float32")


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


def test_a_bfloat16_body_runs_as_its_form_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a CUDA graph if the provider cannot record it, since nothing else can run."""
    graph = {"body": graph_of_text(ATTENTION, third=np.float32(0.3))}
    path = write_graphs(tmp_path / "attention", graph, {"float32": {}})
    (entry,) = build(BuildOptions(path, BACKEND, precision="bfloat16")).manifest.engines
    opened = list[tuple[Path, str]]()

    def open_session(module: Any, graph: Path, chosen: tuple[str, dict[str, str]]) -> Any:
        opened.append((graph, chosen[1]["enable_cuda_graph"]))
        raise UserError("the CPU has no bfloat16 kernels", "none")

    monkeypatch.setattr(onnxruntime_cuda, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime_cuda, "open_session", open_session)
    with pytest.raises(UserError, match="no bfloat16 kernels"):
        OnnxRuntimeCuda().load(open_bundle(path), "bfloat16")
    assert opened == [(path / entry.file, "1"), (path / entry.file, "0")]


def test_a_bfloat16_body_without_a_form_names_the_command(tmp_path: Path, provider: list[dict[str, str]]) -> None:
    graph = {"body": graph_of_text(ATTENTION, third=np.float32(0.3))}
    path = write_graphs(tmp_path / "attention", graph, {"float32": {}})
    with_form = build(BuildOptions(path, BACKEND, precision="bfloat16")).manifest
    without = open_bundle(path)
    without = replace(without, manifest=msgspec.structs.replace(with_form, engines=()))
    fix = f"has no form for {BACKEND}; fewstep build .* --backend {BACKEND} --precision bfloat16"
    with pytest.raises(UserError, match=fix):
        OnnxRuntimeCuda().load(without, "bfloat16")
