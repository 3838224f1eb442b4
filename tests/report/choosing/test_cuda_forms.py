"""The form of a body is compared with its portable graph, and the faster one runs from then on."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from fewstep.cli.verbs.build import verb
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.measure.speed.timed_process import TimedProcess
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER
from fewstep.report.choosing import cuda_forms
from fewstep.report.choosing.cuda_forms import measure_forms, open_calls
from fewstep.runtime.backends import onnxruntime_cuda
from fewstep.runtime.backends.onnxruntime_cuda_form import BACKEND, find_form, prefers_form
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine.packages import OnnxRuntimeImport
from fewstep.runtime.progress import SILENT
from tests.cuda_forms import run_on_cpu, write_attention  # noqa: F401 - fixtures
from tests.report.choosing.form_calls import agree, die, differ, lack_memory, lack_memory_to_open, refuse_form


def measure(bundle: Path, monkeypatch: pytest.MonkeyPatch, calls: Any) -> list[Any]:
    here = OnnxRuntimeImport(onnxruntime.__version__, (onnxruntime_cuda.PROVIDER,), "")
    monkeypatch.setattr(cuda_forms, "PROVIDER", onnxruntime_cuda.PROVIDER)
    monkeypatch.setattr(cuda_forms, "this_onnxruntime", lambda: here)
    monkeypatch.setattr(cuda_forms, "open_calls", calls)
    return [*measure_forms(open_bundle(bundle), DENOISER, "float32", 2)]


def test_the_faster_one_is_measured_and_remembered(attention: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    milliseconds = {"float32, portable graph": 4.0, "float32, form": 2.0}
    monkeypatch.setattr(TimedProcess, "median_milliseconds", lambda process: milliseconds[process.name])
    (found,) = measure(attention, monkeypatch, agree)
    form = find_form(open_bundle(attention), "float32")
    assert form is not None and found.choice.agrees and found.choice.ratio == 0.5
    assert prefers_form(form, "float32", onnxruntime.__version__, 0)
    assert str(found).startswith("float32: the form takes 0.5") and str(found).endswith("so the form runs")


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


def test_a_form_that_cannot_be_opened_is_measured_with_its_reason(
    attention: Path, provider: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(module: Any, graph: Path, chosen: tuple[str, dict[str, str]]) -> Any:
        raise UserError(f"no memory for {graph.suffix}", "none")

    monkeypatch.setattr(onnxruntime_cuda, "open_session", refuse)
    with pytest.raises(UserError, match="no memory for .onnx"):
        open_calls(attention, DENOISER, "float32", True, 2)


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
