"""The runtime's table: the bodies that a backend prefers, and the names of bodies."""

from dataclasses import replace

import pytest

from fewstep.calibration.lowering.targets import load_target, target_names
from fewstep.measure.simulation import open_simulated
from fewstep.runtime.backends.registry import NAMED
from fewstep.runtime.bundle.platforms import (
    ONNXRUNTIME,
    OPENVINO,
    PLATFORMS,
    PORTABLE,
    body_name,
    cpu_kind,
    is_core,
    platform_of,
    rank_platforms,
    suits,
    target_of,
)
from fewstep.runtime.machine.cpu import Cpu


def test_targets_have_the_platforms_that_the_runtime_knows() -> None:
    assert tuple(load_target(name).platform for name in target_names()) == PLATFORMS
    assert len({platform.name for platform in PLATFORMS}) == len(PLATFORMS) == 11


VNNI, AVX2, ARM = (
    Cpu("", architecture, 2, None, instructions, False)
    for architecture, instructions in (
        ("x86_64", ("avx2", "avx_vnni")),
        ("AMD64", ("avx2",)),
        ("aarch64", ("asimddp",)),
    )
)
OLD = ["cpu-x86-7bit"]  # a target of earlier versions


@pytest.mark.parametrize(
    ("cpu", "names", "openvino"),
    [
        (VNNI, ["cpu-x86", "cpu-x86-no-vnni", *OLD, "cpu-arm"], ["openvino", "openvino-no-vnni", "openvino-7bit"]),
        (AVX2, ["cpu-x86-no-vnni", *OLD, "cpu-x86", "cpu-arm"], ["openvino-no-vnni", "openvino-7bit", "openvino"]),
        (ARM, ["cpu-arm", "cpu-x86", "cpu-x86-no-vnni", *OLD], ["openvino", "openvino-no-vnni", "openvino-7bit"]),
    ],
)
def test_platforms_that_suit_a_cpu_are_preferred(cpu: Cpu, names: list[str], openvino: list[str]) -> None:
    assert [platform.name for platform in rank_platforms(ONNXRUNTIME, cpu)] == names
    assert [platform.name for platform in rank_platforms(OPENVINO.backend, cpu)] == openvino


def test_8_bit_weights_do_not_suit_an_x86_cpu_without_vnni() -> None:
    unsuited = [platform.name for platform in PLATFORMS if not suits(platform, AVX2)]
    assert unsuited == ["cpu-x86", "openvino", "openvino-bf16"]
    assert all(suits(platform, cpu) for platform in PLATFORMS for cpu in (VNNI, ARM))


def test_a_platform_is_found_by_its_name() -> None:
    assert [platform_of(platform.name) for platform in PLATFORMS] == list(PLATFORMS)
    assert platform_of(PORTABLE) is None and platform_of("cpu-z80") is None


def test_bodies_of_earlier_versions_are_known_and_no_longer_made() -> None:
    for name, new in (("cpu-x86-7bit", "cpu-x86-no-vnni"), ("openvino-7bit", "openvino-no-vnni")):
        old, platform = platform_of(name), platform_of(new)
        assert old is not None and platform is not None and replace(old, name=new) == platform
        assert is_core(name) and name not in target_names()


def test_the_kind_of_a_cpu_follows_from_its_machine_name() -> None:
    assert [cpu_kind(name) for name in ("x86_64", "AMD64")] == ["x86"] * 2
    assert [cpu_kind(name) for name in ("aarch64", "arm64", "ARM64")] == ["arm"] * 3


def test_a_body_is_named_after_precision_and_target() -> None:
    assert body_name("float32") == "float32" and body_name("float16", PORTABLE) == "float16"
    assert body_name("int8", "cpu-x86-no-vnni") == "int8-cpu-x86-no-vnni"
    assert body_name("int4-weights", "int4-weights") == "int4-weights"
    assert [target_of(body_name(platform.precision, platform.name)) for platform in PLATFORMS] == [
        platform.name for platform in PLATFORMS
    ]
    assert target_of("float32") == PORTABLE


def test_each_backend_prefers_the_bodies_of_its_platforms() -> None:
    for platform in PLATFORMS:
        assert body_name(platform.precision, platform.name) in NAMED[platform.backend](1).bodies[platform.precision]
    for name, make in NAMED.items():
        targets = [target_of(body) for body in make(1).bodies.get("int8", ())]
        backends = {each.backend for each in PLATFORMS if each.name in targets}
        assert backends <= {name.removesuffix("-rtx").removesuffix("-rows")}


def test_targets_are_judged_on_their_engine_unless_their_bodies_are_simulated() -> None:
    targets = map(load_target, target_names())
    simulating = [target.platform for target in targets if target.runs is open_simulated]
    assert simulating == [platform for platform in PLATFORMS if platform.simulated]
    assert [platform.name for platform in rank_platforms(ONNXRUNTIME)] == ["cpu-x86", "cpu-x86-no-vnni", "cpu-arm"]
