"""The default targets are those that suit this CPU."""

from pathlib import Path

import pytest

from fewstep.calibration.lowering.targets import load_target, usual_targets
from fewstep.calibration.options import CalibrateOptions, check_options
from fewstep.cli.demo_options import DemoOptions
from tests.described_cpu import describe_cpu
from tests.refusals import refuses


@pytest.mark.parametrize(
    ("machine", "instructions", "target"),
    [
        ("x86_64", ("avx2", "avx512_vnni"), "cpu-x86"),
        ("x86_64", ("avx2",), "cpu-x86-no-vnni"),
        ("aarch64", (), "cpu-arm"),
    ],
)
def test_a_calibration_and_the_demo_take_the_one_that_suits_this_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, instructions: tuple[str, ...], target: str
) -> None:
    describe_cpu(monkeypatch, tmp_path, instructions, machine)
    assert usual_targets() == (target, "tensorrt")
    checked = check_options(CalibrateOptions(tmp_path))
    assert tuple(target.name for target in checked.targets) == (target, "tensorrt")
    assert DemoOptions().targets == (target,) and DemoOptions(full=True).targets == (target, "tensorrt")


def test_named_targets_are_taken_as_they_are(tmp_path: Path) -> None:
    options = CalibrateOptions(tmp_path, target=("openvino", "cpu-x86", "openvino"))
    assert options.targets == ("openvino", "cpu-x86")


@pytest.mark.parametrize("engine", ["cpu-x86", "openvino"])
def test_the_refusal_of_an_earlier_target_names_its_successor(engine: str) -> None:
    """A recorded command that made an old body has its name."""
    with refuses(f"target '{engine}-7bit' is no longer made", f"choose {engine}-no-vnni"):
        load_target(f"{engine}-7bit")
