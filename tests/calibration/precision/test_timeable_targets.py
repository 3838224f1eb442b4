"""A speed holds for targets that this kind of CPU runs, a quality for all with floats; the rest is refused or named."""

import logging
from pathlib import Path
from typing import Any

import pytest

from fewstep.calibration import body_maker, calibrate
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets import load_target
from fewstep.calibration.precision.bound import Bound
from fewstep.calibration.precision.precision_search import SearchResult, search_precision
from fewstep.calibration.precision.recipe import Recipe
from fewstep.calibration.precision.timeable_targets import check_targets, timeable_targets
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from tests.calibration.precision.deep_body import deep, run
from tests.calibration.test_calibrate import write_bundle
from tests.exact_int8 import EXACT_BODY, EXACT_TARGET
from tests.refusals import refuses


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("platform.machine", lambda: request.param)
    return str(request.param)


def targets(*names: str) -> list[Target]:
    return [load_target(name) for name in names]


QUALITY, SPEED = Bound(quality=36.0), Bound(speed=1.5)


def test_what_is_timed_is_what_this_kind_of_cpu_runs(machine: str) -> None:
    here = {"x86_64": ("cpu-x86", "cpu-x86-no-vnni"), "aarch64": ("cpu-arm",)}[machine]
    assert timeable_targets() == here
    check_targets(targets(*here), SPEED)


@pytest.mark.parametrize(
    ("name", "bound", "words"),
    [
        (
            "cpu-arm",
            SPEED,
            "--speed for cpu-arm: times can only be measured .* that runs the body; add target cpu-x86 or",
        ),
        ("tensorrt", SPEED, r"--speed for tensorrt: .*--quality 44dB"),
        ("qnn-8bit", QUALITY, "--quality does not apply to qnn-8bit, whose engines run all operations in integers"),
    ],
)
def test_a_bound_that_can_hold_for_no_target_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, bound: Bound, words: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(UserError, match=words):
        check_targets(targets(name), bound)


def test_nothing_is_measured_before_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "deep", deep())
    before = (bundle / "manifest.json").read_bytes()
    monkeypatch.setattr(calibrate, "count_activations", lambda *_: pytest.fail("it counts"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(UserError, match="--speed for cpu-arm"):
        run(bundle, target=("cpu-arm",), speed="1.5x")
    assert (bundle / "manifest.json").read_bytes() == before


def test_targets_that_a_bound_leaves_alone_are_named(machine: str, caplog: pytest.LogCaptureFixture) -> None:
    """Those of another kind of CPU too."""
    here, other = timeable_targets()[0], {"x86_64": "cpu-arm", "aarch64": "cpu-x86"}[machine]
    check_targets(targets(here), SPEED)
    check_targets(targets("tensorrt", here, other), QUALITY)
    assert not caplog.records
    check_targets(targets("tensorrt", here, other), SPEED)
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert said.getMessage() == f"the bound applies only to {here}; targets calibrated without it: tensorrt, {other}"


@pytest.mark.slow
def test_calibrating_says_so_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = write_bundle(tmp_path / "deep", deep())
    result = run(bundle, target=(EXACT_TARGET, "tensorrt"), speed="0.1x")
    assert "calibrated without it: tensorrt" in caplog.text and set(result.searches) == {EXACT_BODY}
    caplog.clear()
    run(bundle, target=(EXACT_TARGET, "tensorrt"))
    assert "the bound" not in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(len(timeable_targets()) < 2, reason="this kind of CPU has one target to search for")
def test_a_search_that_fails_costs_the_other_bodies_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refine(recipe: Recipe, *given: Any, **named: Any) -> SearchResult:
        if recipe.target.name == "cpu-x86":
            raise UserError("no body reaches it", "ask for less")
        return search_precision(recipe, *given, **named)

    bundle = write_bundle(tmp_path / "deep", deep())
    before = (bundle / "manifest.json").read_bytes()
    monkeypatch.setattr(body_maker, "search_precision", refine)
    with pytest.raises(UserError, match="^int8-cpu-x86 was not made: no body .*: int8-cpu-x86-no-vnni, int8-t"):
        run(bundle, target=("cpu-x86", "cpu-x86-no-vnni", "tensorrt"), quality="20dB")
    bodies = open_bundle(bundle).manifest.bodies
    assert set(bodies) == {"float32", "int8-cpu-x86-no-vnni", "int8-tensorrt"}
    (bundle / "manifest.json").write_bytes(before)
    with refuses("no body reaches it", "ask for less"):
        run(bundle, target=("cpu-x86",), quality="20dB")
    assert (bundle / "manifest.json").read_bytes() == before
