"""The page of cuDNN's plans, and the library that stands in for a driver."""

import ctypes
import shutil
from pathlib import Path

import msgspec
import pytest

from benchmarks.gpu.results import Agreement, GroupPlans, GroupTime, Machine, StepTime
from benchmarks.nvidia.cudnn.__main__ import VERBS, main
from benchmarks.nvidia.cudnn.engines import COMPILED, CUDNN, INT8, SIMULATED
from benchmarks.nvidia.cudnn.page import page_of
from benchmarks.nvidia.cudnn.plans import DESCRIBED, ask_cudnn, format_version
from benchmarks.nvidia.cudnn.stub_driver import FUNCTIONS, stub_folder
from fewstep.plans.errors import UserError

MACHINE = Machine(DESCRIBED, {"cuDNN": "9.28.1"}, "2026-11-27")
INT8_GROUP = ("cifar10", "H100", "64->64 3x3 at 32x32, batch 8", "scale, bias to half", "int8", 3, 300)
HALF = ("cifar10", "H100", "3->64 3x3 at 32x32, batch 8", "bias to half", "half", 1, 100)


def test_groups_with_a_plan_are_counted() -> None:
    page = page_of(
        [MACHINE, GroupPlans(*INT8_GROUP, engines={"eng4": 5, "eng2": 2}), GroupPlans(*HALF, engines={"eng41": 31})]
    )
    assert "| cifar10 | 3 | 75 % | 3 |" in page
    assert "| 7 (2, 4) |" in page and "No group is without a plan" in page


def test_a_group_without_a_plan_is_named_with_its_reason() -> None:
    page = page_of(
        [
            MACHINE,
            GroupPlans(*INT8_GROUP, engines={}, reason="no engine supports it ___ {knobs}"),
            GroupPlans(*HALF, engines={"eng41": 31}),
        ]
    )
    assert "| cifar10 | 3 | 75 % | 0 |" in page
    named = "| cifar10 | H100 | int8 | 64->64 3x3 at 32x32, batch 8 | scale, bias to half | no engine supports it |"
    assert named in page


def test_a_later_answer_replaces_an_earlier_one() -> None:
    page = page_of(
        [MACHINE, GroupPlans(*INT8_GROUP, engines={}, reason="none"), GroupPlans(*INT8_GROUP, engines={"eng4": 5})]
    )
    assert "No group is without a plan" in page


STEP = StepTime("cifar10", 64, INT8, 80.0, 81.0, 40.25, 38.0, 55.0, -0.125, 0.25)
GROUP = GroupTime("cifar10", 64, "conv2d_1", "64->64", "scale, bias to half", 18.0, 12.0, "eng4", "eng41")


def test_a_call_in_int8_is_compared_with_both_of_float16() -> None:
    others = [StepTime("cifar10", 64, CUDNN, 100.0, 101.0), StepTime("cifar10", 64, COMPILED, 64.0, 65.0)]
    page = page_of([MACHINE, STEP, *others])
    assert "| cifar10 | 64 | 80.0 | 100.0 | 64.0 | 0.80 | 1.25 |" in page
    assert f"| cifar10 | {INT8} | 40.2 / 38.0 | -0.12 ± 0.25 | 55.0 |" in page


def test_one_seed_has_a_difference_without_a_standard_error() -> None:
    page = page_of([MACHINE, msgspec.structs.replace(STEP, standard_error=None)])
    assert f"| cifar10 | {INT8} | 40.2 / 38.0 | -0.12 | 55.0 |" in page


def test_the_simulation_is_not_compared_with_itself() -> None:
    page = page_of([MACHINE, StepTime("cifar10", 64, SIMULATED, None, None, 41.0, 39.0, 200.0, 0.0, 0.0)])
    assert f"| cifar10 | {SIMULATED} | 41.0 / 39.0 |  |  |" in page


def test_groups_that_are_slower_in_int8_are_named() -> None:
    faster = msgspec.structs.replace(GROUP, product="conv2d_2", int8=6.0, different=0)
    page = page_of([MACHINE, STEP, GROUP, faster])
    assert "| cifar10 | 64 | 24.0 | 24.0 | 1.00 | 1 of 2: conv2d_1 |" in page
    assert "1 of 1 compared groups have the exact sums" in page


def test_integers_that_differ_are_named() -> None:
    page = page_of([MACHINE, STEP, msgspec.structs.replace(GROUP, different=3)])
    assert "0 of 1 compared groups have the exact sums, bit for bit. Others: cifar10 conv2d_1 (3 numbers)." in page


def test_an_engine_that_failed_is_named_with_its_reason() -> None:
    page = page_of([MACHINE, STEP, StepTime("cifar10", 64, CUDNN, reason="RuntimeError: no plan")])
    assert "- cifar10, 64 rows, float16, cuDNN: RuntimeError: no plan" in page


def test_without_a_gpu_the_page_says_so() -> None:
    assert "No GPU has run them yet" in page_of([MACHINE, GroupPlans(*INT8_GROUP, engines={"eng4": 5})])


def test_the_first_convolution_is_compared_bit_for_bit() -> None:
    page = page_of([MACHINE, STEP, Agreement("64->64", "linear", "eng4_k24=2", 1000, 0, 0.0)])
    assert "- 64->64, by eng4_k24=2: 0 of 1000 numbers differ from the exact result" in page


def test_versions_of_cudnn_have_dots() -> None:
    assert [format_version(version) for version in (92801, 91900)] == ["9.28.1", "9.19.0"]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc builds the library")
def test_every_function_of_the_stub_says_that_there_is_no_device(tmp_path: Path) -> None:
    library = ctypes.CDLL(str(stub_folder(tmp_path) / "libcuda.so.1"))
    assert {getattr(library, name)() for name in FUNCTIONS} == {100}
    assert stub_folder(tmp_path) == stub_folder(tmp_path)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc builds the library")
def test_an_environment_without_cudnn_is_named(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'cudnn'\" >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(UserError, match="No module named 'cudnn'"):
        list(ask_cudnn([], python, tmp_path, "2026-11-27"))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_command(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    assert "usage" in capsys.readouterr().out


def test_another_verb_prints_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure"]) == 2
    assert "benchmarks.nvidia.cudnn plans --python" in capsys.readouterr().out
