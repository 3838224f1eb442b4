"""What building engines is said to take before it begins."""

from pathlib import Path

import pytest

from fewstep.cli import build as module
from fewstep.cli.build import dry_run
from fewstep.engines.build import BuildOptions, EngineRequest
from fewstep.runtime.bundle.reading import open_bundle
from tests.evaluation.judged_bundle import make_bundle


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
