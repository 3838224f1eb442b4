"""Folders that optimum wrote: a denoiser in ONNX, with a scheduler of diffusers."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.plans.errors import UserError
from fewstep.runtime.sampling.loading import load
from tests.export.sources.onnx_models import model, rename_tensors

diffusers = pytest.importorskip("diffusers")

TRAILING = {"timestep_spacing": "trailing", "clip_sample": False}


def test_a_folder_that_optimum_wrote_needs_no_torch(tmp_path: Path) -> None:
    """unet/model.onnx with the network's arguments as inputs, and the scheduler next to it."""
    home = tmp_path / "exported"
    config = {
        "_class_name": "UNet2DModel",
        "in_channels": 2,
        "out_channels": 2,
        "sample_size": 4,
        "num_class_embeds": 4,
    }
    proto = rename_tensors(model(opset=17, time="scalar", time_type="int64"), label="class_labels", out="out_sample")
    for folder in ("unet", "scheduler"):
        (home / folder).mkdir(parents=True)
    onnx.save(proto, home / "unet" / "model.onnx")
    (home / "unet" / "config.json").write_text(json.dumps(config))
    (home / "model_index.json").write_text(json.dumps({"unet": ["optimum", "ORTModel"]}))
    diffusers.DDIMScheduler(beta_schedule="scaled_linear", **TRAILING).save_pretrained(home / "scheduler")
    manifest = export(ExportOptions(str(home), tmp_path / "bundle"))
    assert manifest.schedule.kind == "scaled-linear" and manifest.conditions[0].high == 3
    assert load(tmp_path / "bundle").sample("scheduler:4", [0, 1], {"class": [0, 3]}).shape == (2, 2, 4, 4)


@pytest.mark.parametrize(
    ("component", "config", "others", "says"),
    [
        (
            "transformer",
            {
                "_class_name": "FluxTransformer2DModel",
                "in_channels": 16,
                "joint_attention_dim": 6,
                "pooled_projection_dim": 4,
            },
            {},
            "reads times in units that differ",
        ),
        (
            "unet",
            {"_class_name": "UNet2DConditionModel", "in_channels": 4, "sample_size": 8, "cross_attention_dim": 6},
            {"adapter": {"_class_name": "T2IAdapter"}},
            "does not contain the adapter",
        ),
        (
            "unet",
            {
                "_class_name": "UNet2DConditionModel",
                "in_channels": 9,
                "out_channels": 4,
                "sample_size": 8,
                "cross_attention_dim": 6,
            },
            {},
            "takes the image and the noisy sample",
        ),
    ],
)
def test_an_optimum_folder_that_says_too_little_is_one_line(
    component: str, config: dict[str, Any], others: dict[str, Any], says: str, tmp_path: Path
) -> None:
    for name, content in {component: config, **others}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
    (tmp_path / component / "model.onnx").touch()
    (tmp_path / "model_index.json").write_text(json.dumps({name: ["optimum", "x"] for name in (component, *others)}))
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(UserError, match=f"{says}.*; export the original pipeline's folder"):
        load_source(str(tmp_path))
