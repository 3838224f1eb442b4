"""The runtime's table: the bodies that a backend prefers, and the names of bodies."""

import pytest

from fewstep.calibration.lowering.targets import load_target, target_names
from fewstep.measure.simulation import open_simulated
from fewstep.runtime.backends.registry import NAMED
from fewstep.runtime.bundle.platforms import (
    ONNXRUNTIME,
    PLATFORMS,
    PORTABLE,
    CpuKind,
    body_name,
    cpu_kind,
    platform_of,
    rank_platforms,
    target_of,
)


def test_targets_have_the_platforms_that_the_runtime_knows() -> None:
    assert tuple(load_target(name).platform for name in target_names()) == PLATFORMS
    assert len({platform.name for platform in PLATFORMS}) == len(PLATFORMS) == 8


@pytest.mark.parametrize(
    ("cpu", "saturating", "names"),
    [
        ("x86", False, ["cpu-x86", "cpu-x86-7bit", "cpu-arm"]),
        ("x86", True, ["cpu-x86-7bit", "cpu-x86", "cpu-arm"]),
        ("arm", False, ["cpu-arm", "cpu-x86", "cpu-x86-7bit"]),
    ],
)
def test_platforms_of_this_cpu_are_preferred(cpu: CpuKind, saturating: bool, names: list[str]) -> None:
    assert [each.name for each in rank_platforms(ONNXRUNTIME, cpu, saturating)] == names


def test_a_platform_is_found_by_its_name() -> None:
    assert [platform_of(each.name) for each in PLATFORMS] == list(PLATFORMS)
    assert platform_of(PORTABLE) is None and platform_of("cpu-z80") is None


def test_the_kind_of_a_cpu_follows_from_its_machine_name() -> None:
    assert [cpu_kind(name) for name in ("x86_64", "AMD64")] == ["x86"] * 2
    assert [cpu_kind(name) for name in ("aarch64", "arm64", "ARM64")] == ["arm"] * 3


def test_a_body_is_named_after_precision_and_target() -> None:
    assert body_name("float32") == "float32" and body_name("float16", PORTABLE) == "float16"
    assert body_name("int8", "cpu-x86-7bit") == "int8-cpu-x86-7bit"
    assert [target_of(body_name("int8", each.name)) for each in PLATFORMS] == [each.name for each in PLATFORMS]
    assert target_of("float32") == PORTABLE


def test_each_backend_prefers_the_bodies_of_its_platforms() -> None:
    for platform in PLATFORMS:
        assert body_name("int8", platform.name) in NAMED[platform.backend](1).bodies["int8"]
    for name, make in NAMED.items():
        targets = [target_of(body) for body in make(1).bodies.get("int8", ())]
        backends = {each.backend for each in PLATFORMS if each.name in targets}
        assert backends <= {name.removesuffix("-rtx").removesuffix("-rows")}


def test_targets_are_judged_on_their_engine_unless_their_bodies_are_simulated() -> None:
    targets = map(load_target, target_names())
    simulating = [each.platform for each in targets if each.runs is open_simulated]
    assert simulating == [each for each in PLATFORMS if each.simulated]
    assert [each.name for each in rank_platforms(ONNXRUNTIME)] == ["cpu-x86", "cpu-x86-7bit", "cpu-arm"]
