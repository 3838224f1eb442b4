"""A plugin's target: calibration needs the plugin, inspection and report do not."""

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import msgspec
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.lowering import targets
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.precision.bound import Bound
from fewstep.calibration.precision.timeable_targets import check_targets, timeable_targets
from fewstep.cli.generate import field_help
from fewstep.measure import open_body as opening
from fewstep.measure.body_backends import backend_of, inference_engine_of, is_simulated
from fewstep.measure.open_body import open_body
from fewstep.plans.errors import UserError
from fewstep.plans.names import plugins
from fewstep.report.bundle_contents import InspectOptions, inspect
from fewstep.report.figures import collect_figures
from fewstep.report.options import ReportOptions
from fewstep.report.page import build_page
from fewstep.report.report_task import open_report_task
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle import platforms
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from tests.bundles import with_body
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle
from tests.refusals import refuses

BODY = "int8-fake"


def fake_target(target: Target, **changes: object) -> Target:
    return replace(target, platform=replace(target.platform, name="fake", notes=("it is an example",), **changes))


FAKE = fake_target(CPU_X86, cpu=None, saturates=False)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Target:
    """A target of onnxruntime for all types of CPU."""
    plug(monkeypatch, "fake")
    return FAKE


def plug(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Install FAKE as a package's plugin of this name."""
    entry = EntryPoint(f"target.{name}", f"{__name__}:FAKE", plugins.GROUP)
    monkeypatch.setattr(plugins, "read_entry_points", lambda: (entry,))


@pytest.fixture
def bundle(tmp_path: Path, fake: Target, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with a body of that target, on a machine without the plugin."""
    path = write_bundle(tmp_path / "bundle", denoiser())
    calibrate(replace(FIRST, bundle=path, target=("fake",)))
    monkeypatch.setattr(plugins, "load_plugin", lambda plugin: pytest.fail("imported"))
    monkeypatch.setattr(plugins, "read_entry_points", lambda: ())
    return path


def of_platform(bundle: Path, platform: platforms.Platform) -> Bundle:
    """Return the bundle with another platform of its body."""
    return open_bundle(with_body(bundle, BODY, platform=platform))


@pytest.mark.slow
def test_a_new_target_is_calibrated_inspected_and_reported(bundle: Path) -> None:
    body = open_bundle(bundle).body(BODY)
    assert (body.precision, body.target) == ("int8", "fake")
    coverage = body.graph.coverage
    assert coverage is not None and coverage.int8_macs > 0
    shown = inspect(InspectOptions(bundle)).bodies[BODY]
    assert (shown.graph.optimized or {})["QLinearConv"] == 1 and shown.graph.engine is None
    few = {"seeds": 2, "forced_seeds": 2, "teacher_seeds": 1, "batches": (1,), "rounds": 1, "turn_seconds": 0.01}
    asked = ReportOptions(bundle, teacher="ddim:4", **few)  # type: ignore[arg-type]
    results, samples = collect_figures(open_report_task(asked))
    (quality,) = results.qualities
    assert (quality.body, quality.target, quality.computed_by) == (BODY, "fake", "onnxruntime")
    assert [timing.name for timing in results.races[0].timings] == ["float32", BODY]
    assert results.notes == ("fake: it is an example.",)
    text = build_page(results, samples).decode()
    assert f"<td>{BODY}</td><td>onnxruntime</td>" in text and " on Other" not in text
    quality = msgspec.structs.replace(quality, computed_by="Other")  # as on an engine of its own
    text = build_page(msgspec.structs.replace(results, qualities=(quality,)), samples).decode()
    assert f"onnxruntime, {BODY} on Other; shorter" in text and "Other against onnxruntime" in text


def test_help_and_messages_name_it(fake: Target) -> None:
    said = ", ".join((*(platform.name for platform in platforms.PLATFORMS), "fake"))
    assert field_help(CalibrateOptions)["target"].endswith(f" All targets: {said}.")
    with pytest.raises(UserError, match=f"choose from {said}"):
        calibrate(replace(FIRST, bundle=Path("none"), target=("other",)))


def test_a_bound_holds_for_it_on_every_cpu(fake: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "PLATFORMS", (*platforms.PLATFORMS, FAKE.platform))
    assert "fake" in timeable_targets()
    check_targets([fake], Bound(speed=1.5))


def test_an_engine_of_its_own_opens_its_body(bundle: Path, fake: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    monkeypatch.setattr(
        opening, "create_backend", lambda _, threads: opened.append(threads) or OnnxRuntime(threads=threads)
    )
    own = fake_target(CPU_X86, backend="other", label="Other")
    opened_bundle = of_platform(bundle, own.platform)
    body = opened_bundle.body(BODY)
    assert (inference_engine_of(body), backend_of(body), is_simulated(body)) == ("Other", "other", False)
    assert open_body(opened_bundle, BODY, threads=1).body == body and opened == [1]


def test_without_an_engine_that_opens_it_its_body_is_simulated(bundle: Path, fake: Target) -> None:
    body = of_platform(bundle, fake_target(TENSORRT).platform).body(BODY)
    assert inference_engine_of(body).startswith("onnxruntime: 8-bit rounding simulated")
    assert backend_of(body) == "onnxruntime" and is_simulated(body)
    shown = inspect(InspectOptions(bundle)).bodies[BODY]
    assert shown.graph.optimized is None and shown.graph.engine is not None  # what TensorRT says of the graph


def test_a_target_of_a_plugin_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, "fake")
    assert targets.load_target("fake") is FAKE and targets.target_names()[-1] == "fake"
    assert platforms.platform_of("fake") is None  # a bundle may say that name, and imports nothing
    plug(monkeypatch, "other")
    with refuses("target.other"):
        targets.load_target("other")


def test_a_platform_of_another_target_is_refused(bundle: Path) -> None:
    with refuses(("bodies['int8-fake'].platform", "'cpu-x86'", "'fake'")):
        of_platform(bundle, CPU_X86.platform)


def test_a_body_that_keeps_no_platform_is_simulated(bundle: Path) -> None:
    """Bundles of earlier versions store no platform, and nothing is imported to find it."""
    body = msgspec.structs.replace(open_bundle(bundle).body(BODY), platform=None)
    assert is_simulated(body) and backend_of(body) == "onnxruntime"
