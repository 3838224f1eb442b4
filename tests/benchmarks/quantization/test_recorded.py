"""benchmarks/quantization/calibration_commands.py: a user's bundle is compared on the data of its calibration."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from benchmarks.quantization.calibration_commands import seeds_of_calibration
from fewstep.calibration.calibrate import calibrate
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import open_bundle
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle
from tests.refusals import refuses


def manifest_of_commands(bundle: Manifest, *options: str) -> Manifest:
    """The manifest of a bundle on which these commands were run."""
    commands = tuple(f"fewstep calibrate BUNDLE --plan ddim:3 {option}" for option in options)
    return msgspec.structs.replace(bundle, provenance=msgspec.structs.replace(bundle.provenance, commands=commands))


def test_everyone_gets_the_trajectories_that_ours_was_calibrated_on(tmp_path: Path) -> None:
    tiny = open_bundle(write_bundle(tmp_path / "bundle", denoiser())).manifest
    old = "--target openvino --trajectories 8 --ranges mse --groups step --seed 1"
    last = "--target cpu-x86,openvino --trajectories 64 --ranges mse --groups step --seed 1000"
    assert seeds_of_calibration(manifest_of_commands(tiny, old, last), ["cpu-x86", "openvino"]) == range(1000, 1064)
    with refuses(("cpu-x86, openvino", "one command")):
        seeds_of_calibration(manifest_of_commands(tiny, last, old), ["cpu-x86", "openvino"])
    with pytest.raises(UserError, match="not calibrated for tensorrt"):
        seeds_of_calibration(manifest_of_commands(tiny, last), ["tensorrt"])
    for option in ("--quality 44dB", "--inputs progressive"):
        with pytest.raises(UserError, match=f"with {option.split()[0]}"):
            seeds_of_calibration(manifest_of_commands(tiny, f"{last} {option}"), ["cpu-x86"])
    own = manifest_of_commands(tiny, f"{last} --conditions FILE")
    assert seeds_of_calibration(own, ["cpu-x86"], has_conditions=True) == range(1000, 1064)
    with pytest.raises(UserError, match="with --conditions"):
        seeds_of_calibration(own, ["cpu-x86"])
    with pytest.raises(UserError, match="without --conditions"):
        seeds_of_calibration(manifest_of_commands(tiny, last), ["cpu-x86"], has_conditions=True)
    stated = msgspec.structs.replace(manifest_of_commands(tiny, last), text=SimpleNamespace())
    assert seeds_of_calibration(msgspec.structs.replace(own, text=SimpleNamespace()), ["cpu-x86"], True) == range(
        1000, 1064
    )
    with refuses("prompts", "--conditions FILE"):
        seeds_of_calibration(stated, ["cpu-x86"])


def test_a_command_that_is_repeated_is_the_last_one(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "bundle", denoiser())
    for trajectories in (6, 4, 6):
        calibrate(replace(FIRST, bundle=path, plan="ddim:2", target=("cpu-x86",), trajectories=trajectories))
    manifest = open_bundle(path).manifest
    assert [command.partition("--trajectories ")[2][:1] for command in manifest.provenance.commands[1:]] == ["4", "6"]
    assert seeds_of_calibration(manifest, ["cpu-x86"]) == range(FIRST.seed, FIRST.seed + 6)
