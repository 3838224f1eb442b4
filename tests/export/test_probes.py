"""An export stores probes of its small float graphs."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.export import probes
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.runtime.backends import find_graph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.probe import LARGEST, measure_probe, probe_difference, sizes_of_probe
from fewstep.runtime.bundle.reading import open_bundle
from tests.export.networks import carrying_denoiser

pytestmark = pytest.mark.slow

SOURCE = f"{carrying_denoiser.__file__}:make"


@pytest.mark.parametrize("bundle", ["exported_tokens", "exported_carrying", "exported_light"])
def test_every_graph_of_a_small_network_has_one(bundle: str, request: pytest.FixtureRequest) -> None:
    opened = open_bundle(request.getfixturevalue(bundle))
    names = [name for name in ("conditioner", "prologue") if getattr(opened.manifest, name) is not None]
    for name in (*names, "float32"):
        graph = find_graph(opened, name)
        assert len(graph.probe) == 2 and np.all(graph.probe, axis=0).any()
        probe = measure_probe(graph, OnnxRuntime().load_graph(opened, graph), sizes_of_probe(opened), 2)
        assert probe_difference(graph, probe) < LARGEST / 10


def test_a_large_network_and_float16_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(ExportOptions(SOURCE, tmp_path / "half", precision="float16", verify="quick"))
    assert open_bundle(tmp_path / "half").manifest.bodies["float16"].graph.probe == ()
    monkeypatch.setattr(probes, "MOST_MACS", 10)
    export(ExportOptions(SOURCE, tmp_path / "large", verify="quick"))
    assert open_bundle(tmp_path / "large").manifest.bodies["float32"].graph.probe == ()
