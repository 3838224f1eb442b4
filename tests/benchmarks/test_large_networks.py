"""The networks of benchmarks/large, made small, are sources that export takes, with the conditions that they name."""

from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="diffusers is not installed")

from benchmarks.large.networks import NETWORKS
from benchmarks.large.pipeline import calls_of, write_arrays, write_pipeline
from benchmarks.large.verb_costs import Chain
from fewstep.export.load_source import load_source
from fewstep.runtime.bundle.conditions import random_range

pytestmark = pytest.mark.slow

SMALL = {"sd15": (32, 8), "sdxl": (32, 8), "dit": (8, 8), "dit-half": (16, 8), "ddpm": (32, 8)}  # width, latent


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_a_source_and_names_its_conditions(name: str, tmp_path: Path) -> None:
    network, (width, latent) = NETWORKS[name], SMALL[name]
    count = write_pipeline(tmp_path / "pipeline", network, width, latent, "float16")
    write_arrays(tmp_path, network)
    spec = load_source(str(tmp_path / "pipeline"), call=calls_of(tmp_path, network)).spec
    assert spec.x_shape[1:] == (latent, latent) and count > 10**6
    to_give = {condition.name: condition.shape for condition in spec.conditions if random_range(condition) is None}
    assert to_give == dict(network.conditions)
    weights = next((tmp_path / "pipeline").glob("*/*.safetensors")).stat().st_size
    assert 2 * count < weights < 2.1 * count  # float16


def test_verbs_after_an_export_of_free_sizes_use_the_largest() -> None:
    asked = Chain(Path("work"), "ddim:2", ("cpu-x86",), 1, NETWORKS["sd15"], "quick", "64:96:8").commands()
    assert "height=64:96:8" in asked["export"] and "width=64:96:8" in asked["export"]
    assert all("height=96" in asked[name] and "width=96" in asked[name] for name in ("run float32", "run cpu-x86"))
    assert "96x96" in asked["calibrate"]
