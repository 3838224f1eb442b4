"""Files that a calibration keeps of an earlier one, and the graphs of a precision map that are checked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.precision.precision_map import encode_maps
from fewstep.calibration.precision.timeable_targets import timeable_targets
from fewstep.graph.files.commit import open_for_update
from fewstep.report.sections.precision import read_maps
from fewstep.runtime.bundle.reading import open_bundle
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle

HERE = timeable_targets()[0]
BODY = f"int8-{HERE}"


@pytest.fixture
def options(tmp_path: Path) -> CalibrateOptions:
    return replace(FIRST, bundle=write_bundle(tmp_path / "bundle", denoiser()), target=(HERE,), quality="20dB")


def test_a_map_stays_with_its_body_when_another_target_is_calibrated(options: CalibrateOptions) -> None:
    """A body with a map or without one. The next body of its name replaces it."""
    first = calibrate(options).manifest
    maps = read_maps(open_bundle(options.bundle))
    other = calibrate(replace(options, target=("tensorrt",), quality=None)).manifest
    assert other.bodies[BODY] == first.bodies[BODY]
    assert [each.body for each in maps] == [BODY] and read_maps(open_bundle(options.bundle)) == maps
    with open_for_update(options.bundle, must_exist=True) as writer:  # as if the map were of another one's body
        others = tuple(msgspec.structs.replace(each, body="int8-tensorrt") for each in maps)
        writer.commit(
            msgspec.structs.replace(other, precision=writer.add(encode_maps(others), "precision", "precision", ".json"))
        )
    calibrate(options)
    assert [each.body for each in read_maps(open_bundle(options.bundle))] == ["int8-tensorrt", BODY]
    calibrate(replace(options, quality=None))
    assert [each.body for each in read_maps(open_bundle(options.bundle))] == ["int8-tensorrt"]


def test_figures_of_previous_bodies_go_with_them(options: CalibrateOptions) -> None:
    first = calibrate(options := replace(options, quality=None)).manifest
    with open_for_update(options.bundle, must_exist=True) as writer:
        file = writer.add(b"{}", "report", "figures", ".json")
        writer.commit(msgspec.structs.replace(first, report=file, results=file, evaluation=file))
    for more, figures in ((0, file), (1, None)):
        made = calibrate(replace(options, trajectories=options.trajectories + more)).manifest
        assert (made.report, made.results, made.evaluation) == (figures,) * 3


def test_a_map_that_cannot_be_read_is_left_out_with_a_warning(
    options: CalibrateOptions, caplog: pytest.LogCaptureFixture
) -> None:
    file = options.bundle / str(calibrate(options).manifest.precision)
    file.write_bytes(file.read_bytes()[:-9])
    made = calibrate(replace(options, target=("tensorrt",), quality=None)).manifest
    assert made.precision is None and "the bundle's previous precision maps are lost" in caplog.text


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"{")])
def test_a_body_that_stays_without_a_plan_that_can_be_read_loses_nothing_of_the_work(
    options: CalibrateOptions, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    first = calibrate(replace(options, quality=None)).manifest
    damage(options.bundle / first.plans["ddim:3"])
    made = calibrate(replace(options, plan="ddim:4", target=("tensorrt",), quality=None)).manifest
    assert "calibration settings cannot be read" in caplog.text and first.plans["ddim:3"] in caplog.text
    kept = open_bundle(options.bundle).manifest
    assert kept == made and kept.bodies["int8-tensorrt"].plan == "ddim:4" and kept.bodies[BODY] == first.bodies[BODY]
