"""What building engines is said to take before it begins."""

from pathlib import Path

import msgspec
import pytest

from fewstep.cli.verbs import build as module
from fewstep.cli.verbs.build import dry_run
from fewstep.graph.engines.build import BuildOptions, EngineRequest
from fewstep.runtime.bundle.reading import MANIFEST, open_bundle
from tests.report.judged_bundle import add_earlier, make_bundle


def test_engines_take_what_their_graphs_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 is yet to be made, of float32."""
    bundle = make_bundle(tmp_path / "tiny")
    there = EngineRequest("int8-tensorrt", "sm89", True)
    asked = EngineRequest("prologue", "sm89", False), EngineRequest("float16", "sm89", False)
    monkeypatch.setattr(module, "intended", lambda _: (there, *asked))
    manifest = open_bundle(bundle).manifest
    assert manifest.prologue is not None
    graphs = (manifest.prologue, manifest.bodies["float32"].graph)
    ahead, exact = ((bundle / graph.file).stat().st_size for graph in graphs)
    told = dry_run(BuildOptions(bundle)).shown
    assert told[3] == f"would write about {(ahead + exact // 2) / 1e6:.1f} MB in 4 files, an engine and its key each"
    monkeypatch.setattr(module, "intended", lambda _: (there,))
    assert dry_run(BuildOptions(bundle)).shown == ("int8-tensorrt for sm89: up to date",)


def test_an_engine_takes_what_its_own_graph_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a bundle without float32, whose other engines are of graphs that are there."""
    bundle = make_bundle(tmp_path / "tiny")
    add_earlier(bundle)
    name = "int8-cpu-x86"
    manifest = open_bundle(bundle).manifest
    size = (bundle / manifest.bodies[name].graphs[0].file).stat().st_size
    without = {other: body for other, body in manifest.bodies.items() if other != "float32"}
    (bundle / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, bodies=without)))
    monkeypatch.setattr(module, "intended", lambda _: (EngineRequest(f"{name}/0", "sm89", False),))
    told = dry_run(BuildOptions(bundle)).shown
    assert told[1] == f"would write about {size / 1e6:.1f} MB in 2 files, an engine and its key each"
    assert module._bytes(bundle, EngineRequest(f"{name}/0", "sm89", False)) == size
