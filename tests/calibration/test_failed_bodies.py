"""A failure of one target does not affect the other targets or the measurements."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.commit import CalibratedNetwork
from fewstep.calibration.failed_bodies import forget_refusals, select_makeable_targets
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.qnn import QNN
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.cli.verbs.calibrate import dry_run
from fewstep.graph.half_types import BFLOAT16, FLOAT16
from fewstep.graph.passes.float32 import has_type
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.calibrate_command import calibrate_fix, store_refusal
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine import cache
from fewstep.runtime.sampling.loading import load
from tests.calibration.every_target import change_target
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle
from tests.refusals import refuses

BOTH = ("tensorrt", "cpu-x86")


def fail(monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
    """The target on an engine that refuses every lowered graph."""

    def check(*_: object) -> None:
        raise UserError(f"{target.name} cannot compile it", "take another")

    change_target(monkeypatch, target.name, check=check)


def test_bodies_that_were_made_are_written_and_the_failed_one_is_named(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = calibrate(
        replace(FIRST, bundle=write_bundle(tmp_path / "other", denoiser()), target=("cpu-x86",))
    ).manifest
    with monkeypatch.context() as patched:
        fail(patched, TENSORRT)
        with pytest.raises(UserError) as failure:
            calibrate(replace(FIRST, bundle=bundle, target=BOTH))
    assert str(failure.value) == (
        "int8-tensorrt was not made: tensorrt cannot compile it; take another (in the bundle: int8-cpu-x86)"
    )
    assert open_bundle(bundle).manifest == expected  # its command names no target that failed
    refused = "the last calibration refused int8-tensorrt, because tensorrt cannot compile it; take another"
    assert calibrate_fix(open_bundle(bundle), "int8-tensorrt") == refused
    assert np.isfinite(load(bundle, "int8").sample("ddim:3", [0], {"class": [0]})).all()
    made = calibrate(replace(FIRST, bundle=bundle, target=BOTH))
    assert "resuming" in caplog.text and "after 4 trajectories" in caplog.text
    assert not list(cache.path("calibration", "").glob("*"))
    assert set(made.lowered) == {"int8-tensorrt", "int8-cpu-x86"}
    assert calibrate_fix(open_bundle(bundle), "int8-tensorrt").startswith("fewstep calibrate ")  # no longer refused


def test_a_refusal_is_kept_until_no_network_has_it(bundle: Path) -> None:
    """One network's body does not replace another network's refusal."""
    opened, name, error = open_bundle(bundle), "int8-cpu-x86", UserError("it overflows", "take another")
    made, refused = SimpleNamespace(bodies={name: None}, failed={}), SimpleNamespace(bodies={}, failed={name: error})
    store_refusal(opened, name, error)
    for networks, is_kept in (((refused, made), True), ((made, refused), True), ((made, made), False)):
        forget_refusals(opened, cast(tuple[CalibratedNetwork, ...], networks))
        assert ("it overflows" in calibrate_fix(opened, name)) is is_kept


def test_where_none_can_be_made_the_first_one_says_why_and_nothing_is_written(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (bundle / "manifest.json").read_bytes()
    fail(monkeypatch, CPU_X86)
    fail(monkeypatch, TENSORRT)
    with pytest.raises(UserError, match=r"^tensorrt cannot compile it; take another$"):
        calibrate(replace(FIRST, bundle=bundle, target=BOTH))
    assert (bundle / "manifest.json").read_bytes() == before


def reaching(folder: Path, scale: float) -> Path:
    """A bundle with activations of about `scale` and unchanged samples."""
    graph, scale = denoiser(), np.float32(scale)
    wide = {"w1": graph.constants["w1"] * scale, "w2": graph.constants["w2"] / scale}
    return write_bundle(folder, replace(graph, constants=graph.constants | wide))


def test_an_activation_beyond_float16_has_bfloat16_around_int8(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = reaching(bundle.parent / "wide", 1e6)
    made = calibrate(replace(FIRST, bundle=path, target=("tensorrt",)))
    assert "tensorrt uses bfloat16 for operations that are not int8: activation" in caplog.text
    assert ", which float16 cannot represent" in caplog.text
    (trial,) = made.manifest.bodies["int8-tensorrt"].trials
    assert trial.psnr > 25
    graph = made.lowered["int8-tensorrt"].graph
    assert has_type(graph, BFLOAT16) and not has_type(graph, FLOAT16)


def test_bfloat16_around_int8_can_be_asked_for(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It has 8 bits of precision, float16 has 11: samples lose where int8 does not hide it."""
    asked = replace(FIRST, bundle=bundle, target=("tensorrt",))
    half = calibrate(asked).manifest.bodies["int8-tensorrt"].trials[0]
    made = calibrate(replace(asked, half="bfloat16"))
    (trial,) = made.manifest.bodies["int8-tensorrt"].trials
    assert has_type(made.lowered["int8-tensorrt"].graph, BFLOAT16) and "beyond" not in caplog.text
    assert 40 < trial.psnr < half.psnr


def test_an_activation_beyond_every_type_costs_the_body_for_tensorrt_alone(bundle: Path) -> None:
    path = write_bundle(bundle.parent / "wide", denoiser())
    with pytest.MonkeyPatch.context() as patched, pytest.raises(UserError, match="int8-tensorrt was not made: activ"):
        patched.setattr(
            "fewstep.calibration.lowering.quantize.largest_number", lambda dtype: 1e-3 if dtype.itemsize == 2 else 1e30
        )
        calibrate(replace(FIRST, bundle=path, target=BOTH))
    assert set(open_bundle(path).manifest.bodies) == {"float32", "int8-cpu-x86"}
    refused = "the last calibration refused int8-tensorrt, because activation "
    assert calibrate_fix(open_bundle(path), "int8-tensorrt").startswith(refused)


def test_an_activation_that_integers_alone_code_costs_no_body_with_floats(bundle: Path) -> None:
    sampler = SimpleNamespace(bundle=open_bundle(bundle))
    task = SimpleNamespace(prepared=denoiser(), targets=(TENSORRT, QNN), refused={}, sampler=sampler)
    attempts = select_makeable_targets(task, SimpleNamespace(max_magnitudes=lambda: {"further": 1e39}, unseen=()))  # type: ignore[arg-type]
    assert attempts.made == {"int8-tensorrt": TENSORRT} and attempts.failed.keys() == {"int8-qnn"}


def test_a_target_whose_engine_computes_float32_wrong_costs_the_others_nothing(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tries(_: object) -> None:
        raise UserError("it computes Resize wrong", "leave it out")

    change_target(monkeypatch, "tensorrt", tries=tries)
    both = replace(FIRST, bundle=bundle, target=BOTH)
    assert "would not make int8-tensorrt: it computes Resize wrong; leave it out" in dry_run(both).shown
    with refuses(("int8-tensorrt", "Resize"), "leave it out"):
        calibrate(both)
    assert set(open_bundle(bundle).manifest.bodies) == {"float32", "int8-cpu-x86"}
    with refuses("Resize", "leave it out"):
        calibrate(replace(both, target=("tensorrt",)))


def test_a_target_that_is_refused_before_sampling_is_stored_by_a_calibration_only(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tries(_: object) -> None:
        raise UserError("it computes Resize wrong", "leave it out")

    change_target(monkeypatch, "tensorrt", tries=tries)
    for call, said in ((dry_run, "fewstep calibrate "), (calibrate, "the last calibration refused int8-tensorrt, ")):
        with refuses("Resize", "leave it out"):
            call(replace(FIRST, bundle=bundle, target=("tensorrt",)))
        assert calibrate_fix(open_bundle(bundle), "int8-tensorrt").startswith(said)
