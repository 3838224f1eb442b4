"""A network too large for one file: its weights leave memory, are stored once, and nothing else changes.

The limit is lowered, so that the networks here count as large.
"""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export import load_and_trace
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.verification import verify
from fewstep.graph.engines.build import build
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.files import io, weights
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.plans.errors import UserError
from fewstep.report import integrity
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import open_bundle
from tests.export.networks import large_denoiser
from tests.refusals import refuses

LIMIT = 60_000  # bytes
SOURCE = f"{large_denoiser.__file__}:make"


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "EXTERNAL_ABOVE", LIMIT)
    monkeypatch.setattr(weights, "COLLECTED", LIMIT)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its weights in files."""
    bundle = tmp_path_factory.mktemp("exported") / "large"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(io, "EXTERNAL_ABOVE", LIMIT)
        export(ExportOptions(SOURCE, bundle))
    return bundle


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def samples(bundle: Path, body: str = "float32") -> Any:
    with fewstep.runtime.load(bundle, body=body) as sampler:
        return sampler.sample("ddim:3", seeds=[0, 1])


def data_bytes(bundle: Path) -> int:
    return sum(path.stat().st_size for path in (bundle / "graphs").glob("*.data"))


@pytest.mark.slow
def test_it_samples_as_with_its_weights_inside(large: Path, tmp_path: Path) -> None:
    export(ExportOptions(SOURCE, tmp_path / "small"))
    one, files = open_bundle(tmp_path / "small").manifest, open_bundle(large).manifest
    assert not one.bodies["float32"].graph.data and files.bodies["float32"].graph.data
    assert (large / files.bodies["float32"].graph.file).stat().st_size < 10_000
    assert {path for path in contents(large) if path != "manifest.json"} == set(files.files)
    np.testing.assert_allclose(samples(large), samples(tmp_path / "small"), rtol=1e-5, atol=1e-5)
    assert integrity.verify(integrity.VerifyOptions(large)).is_whole


@pytest.mark.slow
@pytest.mark.usefixtures("low_limit")
def test_torch_is_gone_before_the_graphs_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []

    def watch(*arguments: Any) -> verify.Verification:
        alive.append(sum(reference() is not None for reference in sys.modules["large_denoiser"].SEEN))
        return compare(*arguments)

    compare = verify.compare
    monkeypatch.setattr(verify, "compare", watch)
    export(ExportOptions(SOURCE, tmp_path / "b"))
    assert alive == [0]


@pytest.mark.slow
@pytest.mark.usefixtures("low_limit")
def test_a_mismatch_brings_it_back_and_names_the_node(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(*graphs: Any) -> Any:
        *kept, exported = unload(*graphs)
        weight = next(name for name in exported.constants if name == "second.weight")
        return (*kept, exported.with_nodes(exported.nodes, {weight: 2 * exported.constants[weight]}))

    unload = io.offload_weights
    monkeypatch.setattr(load_and_trace.io, "offload_weights", spoil)
    monkeypatch.setattr(
        load_and_trace, "reusable_verification", lambda *_: None
    )  # what is there was verified with other versions
    shutil.copytree(large, tmp_path / "b")
    before = contents(tmp_path / "b")
    with refuses(("differs from torch", "second/Conv")):
        export(ExportOptions(SOURCE, tmp_path / "b"))
    assert contents(tmp_path / "b") == before


@pytest.mark.slow
@pytest.mark.usefixtures("low_limit")
def test_without_room_nothing_changes(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50_000))
    shutil.copytree(large, tmp_path / "old")
    before = contents(tmp_path / "old")
    for bundle in (tmp_path / "old", tmp_path / "new"):
        with refuses((bundle.name, "50 kB")):
            export(ExportOptions(SOURCE, bundle))
    assert contents(tmp_path / "old") == before and not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("low_limit")
def test_int8_bodies_refer_to_the_float_weights_and_to_one_another(large: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    shutil.copytree(large, bundle)
    before = data_bytes(bundle)
    calibrate(CalibrateOptions(bundle, "ddim:2", target=("cpu-x86", "cpu-arm"), trajectories=4))
    manifest = open_bundle(bundle).manifest
    x86, arm = (manifest.bodies[name].graph for name in ("int8-cpu-x86", "int8-cpu-arm"))
    assert x86.data and set(x86.data) & set(arm.data)
    assert data_bytes(bundle) < 1.5 * before  # the integers of both, once
    assert integrity.verify(integrity.VerifyOptions(bundle)).is_whole
    packed = pack(PackOptions(bundle, tmp_path / "device"))
    assert set(packed.bodies) == {"int8-cpu-x86", "int8-cpu-arm"}
    assert data_bytes(tmp_path / "device") < 0.5 * before
    np.testing.assert_array_equal(samples(tmp_path / "device", "int8-cpu-x86"), samples(bundle, "int8-cpu-x86"))


@pytest.mark.parametrize(
    "limit", [LIMIT, pytest.param(io.EXTERNAL_ABOVE, marks=pytest.mark.slow)], ids=["large", "small"]
)
def test_a_float16_export_is_half_the_size_and_is_verified(
    large: Path, tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "EXTERNAL_ABOVE", limit)
    manifest = export(ExportOptions(SOURCE, tmp_path / "b", precision="float16"))
    assert list(manifest.bodies) == ["float16"] and manifest.bodies["float16"].precision == "float16"
    assert "--precision float16" in manifest.provenance.commands[0]
    assert sum(map(len, contents(tmp_path / "b").values())) < 0.7 * sum(map(len, contents(large).values()))
    table = read_table(tmp_path / "b", manifest)
    half = [comparison for comparison in table.comparisons if comparison.stage == "float16"]
    assert {each.time for each in half} == {comparison.time for comparison in table.comparisons}
    assert 0 < max(comparison.relative for comparison in half) < 2e-2
    assert table.worst.relative < 1e-4


def read_table(bundle: Path, manifest: Manifest) -> verify.Verification:
    assert manifest.verification is not None
    return msgspec.json.decode((bundle / manifest.verification).read_bytes(), type=verify.Verification)


@pytest.mark.slow
def test_what_a_float16_bundle_can_be_used_for(tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    export(ExportOptions(SOURCE, bundle, precision="float16"))
    with pytest.raises(UserError, match="has no float32 body, only float16"):
        fewstep.runtime.load(bundle)
    with pytest.raises(UserError, match="float32"):
        calibrate(CalibrateOptions(bundle, "ddim:2", trajectories=4))
    made = build(BuildOptions(bundle, "onnxruntime-cuda", precision="float16"))
    assert list(made.manifest.bodies) == ["float16"]
