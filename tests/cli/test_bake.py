"""`fewstep bake` warns of a plan along which the int8 body was not calibrated."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from fewstep.graph.bake import resolve_run
from fewstep.graph.bake.seal_check import read_metadata
from fewstep.plans.compile import compile_plan
from fewstep.plans.file import encode
from fewstep.plans.guidance import Guidance
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.execution import plan_for
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.request import denoiser_facts
from fewstep.runtime.sampling.whole_runs import plan_digest
from tests.bundles import change_bundle, with_body
from tests.calibration.test_calibrate import denoiser, write_bundle
from tests.cli.conftest import Command


def calibrate_along(bundle: Path, name: str, guidance: float | Guidance) -> None:
    """Name this plan in the manifest as the one along which the int8 body was calibrated."""
    content = encode(compile_plan(name, denoiser_facts(open_bundle(bundle).manifest), guidance))
    with_body(change_bundle(bundle, {"plan.json": content}, plans={name: "plan.json"}), "int8-cpu-x86", plan=name)


@pytest.mark.parametrize(
    ("plan", "given", "said"),
    [
        ("ddim:3", ("--guidance", "2", "--body", "int8-cpu-x86"), False),
        ("ddim:3", ("--precision", "int8"), False),  # as calibrated
        ("ddim:3", ("--precision", "int8", "--guidance", "1"), True),
        ("ddim:4", ("--guidance", "2", "--precision", "int8"), True),
        ("ddim:4", (), False),  # float32
    ],
)
def test_int8_away_from_its_calibration_is_reported(
    tiny_bundle: Path, tmp_path: Path, fewstep: Command, plan: str, given: tuple[str, ...], said: bool
) -> None:
    calibrate_along(tiny_bundle, "ddim:3", 2.0)
    message = fewstep("bake", tiny_bundle, "--plan", plan, *given, "-o", tmp_path / "s.onnx").err
    assert ("int8 was calibrated along ddim:3, guidance 2, and runs along" in message) is said
    assert ("its ranges may not fit" in message) is said
    for output, wrong in (
        ("none/s.onnx", "there is no folder "),
        ("s.png", "is not an ONNX file"),
    ):  # without a warning
        message = fewstep("bake", tiny_bundle, "--plan", plan, *given, "-o", tmp_path / output, code=1).err
        assert wrong in message and "int8 was calibrated" not in message


@pytest.mark.parametrize(
    ("given", "guidance"), [((), "2"), (("--precision", "int8"), "2"), (("--guidance", "1.5"), "1.5")]
)
def test_without_a_plan_it_is_the_one_that_run_takes(
    tiny_bundle: Path, tmp_path: Path, fewstep: Command, given: tuple[str, ...], guidance: str
) -> None:
    calibrate_along(tiny_bundle, "ddim:3", 2.0)
    printed = fewstep("bake", tiny_bundle, *given, "-o", tmp_path / "s.onnx").out
    assert "ddim:3" in printed and f"guidance {guidance}" in printed
    with load(tiny_bundle, "int8" if "int8" in given else "float32") as sampler:
        plan = sampler.compile(None, float(given[-1]) if "--guidance" in given else None)
    assert read_metadata(tmp_path / "s.onnx").plan_sha256 == plan_digest(plan)


def test_without_a_plan_or_a_calibration_it_is_the_usual_one(
    tiny_bundle: Path, tmp_path: Path, fewstep: Command
) -> None:
    assert "dpmpp_2m:8 in float32" in fewstep("bake", tiny_bundle, "-o", tmp_path / "s.onnx").out


def test_a_form_is_named(tmp_path: Path, fewstep: Command) -> None:
    bundle = write_bundle(tmp_path / "convolutions", denoiser())
    printed = fewstep("bake", bundle, "--plan", "ddim:2", "--body", "int8-weights", "-o", tmp_path / "s.onnx").out
    assert "ddim:2 in float32 (int8-weights)" in printed


def test_parts_are_described_with_their_sizes_and_verified(tiny_bundle: Path, tmp_path: Path, fewstep: Command) -> None:
    folder = tmp_path / "parts"
    printed = fewstep("bake", tiny_bundle, "--plan", "ddim:3", "--parts", "--batch", "3", "-o", folder).out
    assert "noise float32 [3, 1, 4, 4]" in printed and f"fewstep verify {folder}" in printed
    assert "intact; 3 files, 3 graphs opened, and the first step ran" in fewstep("verify", folder).out
    (folder / "after.onnx").write_bytes(b"other")
    assert "after.onnx changed since it was baked" in fewstep("verify", folder, code=1).out


def test_the_plan_is_compiled_once(
    tiny_bundle: Path, tmp_path: Path, fewstep: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = Mock(wraps=plan_for)
    monkeypatch.setattr(resolve_run, "plan_for", compiled)
    fewstep("bake", tiny_bundle, "--plan", "ddim:3", "-o", tmp_path / "s.onnx")
    assert compiled.call_count == 1


def test_float16_without_a_body_names_the_body(tiny_bundle: Path, tmp_path: Path, fewstep: Command) -> None:
    given = ("--plan", "ddim:3", "--precision", "float16", "-o", tmp_path / "s.onnx")
    message = fewstep("bake", tiny_bundle, *given, code=1).err
    assert "bake float16 with --body float16" in message and "backend" not in message
