"""One target's failure costs the others nothing, and not what was measured."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.lowering import targets
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets import CPU_X86, TENSORRT
from fewstep.cli.verbs.calibrate import dry_run
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from fewstep.runtime.machine import cache
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle

BOTH = ("tensorrt", "cpu-x86")


def failing(target: Target) -> Target:
    """The target on an engine that refuses what was lowered for it."""

    def check(*_: object) -> None:
        raise UserError(f"{target.name} cannot compile it", "take another")

    return replace(target, check=check, leaner=None)  # type: ignore[arg-type]


def test_bodies_that_were_made_are_written_and_the_failed_one_is_named(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = calibrate(
        replace(FIRST, bundle=write_bundle(tmp_path / "other", denoiser()), target=("cpu-x86",))
    ).manifest
    with monkeypatch.context() as patched:
        patched.setattr(targets, "TARGETS", (CPU_X86, failing(TENSORRT)))
        with pytest.raises(UserError) as failure:
            calibrate(replace(FIRST, bundle=bundle, target=BOTH))
    assert str(failure.value) == (
        "int8-tensorrt was not made: tensorrt cannot compile it; take another (in the bundle: int8-cpu-x86)"
    )
    assert open_bundle(bundle).manifest == expected  # its command names no target that failed
    assert np.isfinite(load(bundle, "int8").sample("ddim:3", [0], {"class": [0]})).all()
    with caplog.at_level(logging.WARNING, "fewstep"):
        made = calibrate(replace(FIRST, bundle=bundle, target=BOTH))
    assert "going on after 4 trajectories" in caplog.text and not list(cache.path("calibration", "").glob("*"))
    assert set(made.lowered) == {"int8-tensorrt", "int8-cpu-x86"}


def test_where_none_can_be_made_the_first_one_says_why_and_nothing_is_written(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (bundle / "manifest.json").read_bytes()
    monkeypatch.setattr(targets, "TARGETS", (failing(CPU_X86), failing(TENSORRT)))
    with pytest.raises(UserError, match=r"^tensorrt cannot compile it; take another$"):
        calibrate(replace(FIRST, bundle=bundle, target=BOTH))
    assert (bundle / "manifest.json").read_bytes() == before


def test_an_activation_beyond_float16_costs_the_body_for_tensorrt_alone(bundle: Path) -> None:
    graph = denoiser()
    scale = np.float32(1e6)
    wide = {"w1": graph.constants["w1"] * scale, "w2": graph.constants["w2"] / scale}
    path = write_bundle(bundle.parent / "wide", replace(graph, constants=graph.constants | wide))
    with pytest.raises(UserError, match=r"int8-tensorrt was not made: activation .* beyond float16; calibrate without"):
        calibrate(replace(FIRST, bundle=path, target=BOTH))
    assert set(open_bundle(path).manifest.bodies) == {"float32", "int8-cpu-x86"}


def test_a_target_whose_engine_computes_float32_wrong_costs_the_others_nothing(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tries(_: object) -> None:
        raise UserError("it computes Resize wrong", "leave it out")

    monkeypatch.setattr(targets, "TARGETS", (CPU_X86, replace(TENSORRT, tries=tries)))
    both = replace(FIRST, bundle=bundle, target=BOTH)
    assert "would not make int8-tensorrt: it computes Resize wrong; leave it out" in dry_run(both).shown
    with pytest.raises(UserError, match="^int8-tensorrt was not made: it computes Resize wrong; leave it out"):
        calibrate(both)
    assert set(open_bundle(bundle).manifest.bodies) == {"float32", "int8-cpu-x86"}
    with pytest.raises(UserError, match="^it computes Resize wrong; leave it out$"):
        calibrate(replace(both, target=("tensorrt",)))
