"""Damaged bundles of two networks, damaged bundles that carry tensors, and damaged plans with slots: one line each."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from fewstep.plans.file import encode
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime import load
from fewstep.runtime.bundle.reading import open_bundle
from tests.fuzz.guard import guard
from tests.fuzz.mutations import changes, damage_json
from tests.fuzz.test_fuzz import ASKED, ENGINE, fuzzed, use
from tests.runtime.test_networks import with_expert

LABELS = {"label": [0, 1]}
damaged = settings(fuzzed, max_examples=max(1, ASKED // 3) if ASKED else 70)


@pytest.fixture
def two_networks(tiny_bundle: Path) -> tuple[Path, str]:
    with_expert(tiny_bundle)
    use(tiny_bundle, "int8")
    return tiny_bundle, (tiny_bundle / "manifest.json").read_text()


@pytest.fixture(scope="module")
def carrying(exported_carrying: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A bundle that carries tensors, its manifest and a plan."""
    bundle = shutil.copytree(exported_carrying, tmp_path_factory.mktemp("fuzzed") / "bundle")
    with load(bundle, backend=ENGINE) as sampler:
        plan = sampler.compile("ddim:2", 2.0)
        sampler.carry_on(plan, [0, 1], LABELS)
    verify(VerifyOptions(bundle, graphs=False))
    return bundle, (bundle / "manifest.json").read_text(), encode(plan).decode()


@damaged
@given(changes)
def test_manifests_of_two_networks(two_networks: tuple[Path, str], drawn: list[Any]) -> None:
    bundle, manifest = two_networks
    (bundle / "manifest.json").write_bytes(damage_json(manifest, drawn))
    with guard(bundle, ""):
        use(bundle, "int8")
    with guard(bundle, str(bundle)):
        verify(VerifyOptions(bundle, graphs=False))


@damaged
@given(changes)
def test_manifests_that_carry(carrying: tuple[Path, str, str], drawn: list[Any]) -> None:
    bundle, manifest, _ = carrying
    (bundle / "manifest.json").write_bytes(damage_json(manifest, drawn))
    with guard(bundle, ""), load(bundle, backend=ENGINE) as sampler:
        _, carried = sampler.carry_on("ddim:2", [0, 1], LABELS, 2.0)
        sampler.sample("ddim:2", [0, 1], LABELS, 2.0, carried=carried)
    with guard(bundle, str(bundle)):
        verify(VerifyOptions(bundle, graphs=False))


@damaged
@given(changes)
def test_plans_with_slots(carrying: tuple[Path, str, str], drawn: list[Any]) -> None:
    bundle, manifest, plan = carrying
    (bundle / "manifest.json").write_text(manifest)
    open_bundle(bundle)
    (bundle / "plan.json").write_bytes(damage_json(plan, drawn))
    with guard(bundle, ""), load(bundle, backend=ENGINE) as sampler:
        _, carried = sampler.carry_on(bundle / "plan.json", [0, 1], LABELS)
        sampler.sample(bundle / "plan.json", [0, 1], LABELS, carried=carried)
