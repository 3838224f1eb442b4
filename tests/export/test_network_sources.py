"""Options that fit no network of a pipeline, which are refused before it is recorded."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fewstep.export import network_sources
from fewstep.export.expert import Expert
from fewstep.export.export_options import ExportOptions
from fewstep.export.network_sources import load_changed_source, read_changes
from fewstep.pipelines.kind import PIPELINE
from tests.refusals import refuses

NETWORK = ["diffusers", "WanTransformer3DModel"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"transformer_2": NETWORK, "boundary_ratio": 0.9}, ("does not say which network", "freeu:1,1,1,1")),
        ({"transformer_2": [None, None], "boundary_ratio": 0.9}, "scheduler_config.json"),
        ({"transformer_2": NETWORK, "boundary_ratio": None}, "scheduler_config.json"),
    ],
)
def test_an_option_that_names_none_of_two_networks_is_refused_early(
    tmp_path: Path, fields: dict[str, object], says: str | tuple[str, ...]
) -> None:
    index = {"_class_name": "WanPipeline", "transformer": NETWORK, **fields}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for name in ("transformer", "transformer_2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    options = ExportOptions(str(tmp_path), tmp_path / "bundle", change=("freeu:1,1,1,1",))
    with refuses(says):
        load_changed_source(options, read_changes(options), ())


def test_a_lora_of_another_model_is_refused_early(tmp_path: Path) -> None:
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDIM"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "unet").mkdir()
    small = {"block_out_channels": [32], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    (tmp_path / "unet" / "config.json").write_text(
        json.dumps({"_class_name": "UNet2DModel", "layers_per_block": 1, **small})
    )
    parts = {f"unet.other.lora_{part}.weight": np.zeros((4, 4), np.float32) for part in "AB"}
    save_file(parts, tmp_path / "lora.safetensors")
    options = ExportOptions(str(tmp_path), tmp_path / "bundle", lora=(str(tmp_path / "lora.safetensors"),))
    with refuses("UNet2DModel lacks 1 of the layers", "trained for this network"):
        load_changed_source(options, read_changes(options), ())


@pytest.mark.parametrize(
    ("module", "names"), [("diffusers", ["unet"]), ("optimum", [])], ids=["of diffusers", "of another library"]
)
def test_only_networks_that_diffusers_builds_are_compared_early(module: str, names: list[str], tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": [module, "UNet2DModel"]}))
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    assert PIPELINE.outlines is not None and list(PIPELINE.outlines(tmp_path)) == names


def test_a_lora_of_another_expert_is_refused_before_the_first_network_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    parts = {f"other.lora_{part}.weight": np.zeros((4, 4), np.float32) for part in "AB"}
    save_file(parts, tmp_path / "lora.safetensors")
    monkeypatch.setattr(network_sources, "load_source", lambda *_: object())
    expert = Expert("noisy", 0.0, lambda: pytest.fail("the expert was loaded"), lambda: torch.nn.Linear(4, 4))
    options = ExportOptions("a.py:make", tmp_path / "bundle", lora=(f"{tmp_path / 'lora.safetensors'}@noisy",))
    with refuses("Linear lacks 1 of the layers"):
        load_changed_source(options, read_changes(options), (expert,))
