"""Conditions have the defaults of the pipelines' own calls."""

import inspect
import json
from pathlib import Path

import pytest

from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.listed import call_defaults
from fewstep.pipelines.listed.call_defaults import GUIDANCE, call_default
from fewstep.pipelines.listed.unets import RAISE_SIZE, UNet2DConditionModel
from fewstep.plans.configs.pipelines import PIPELINES
from tests.refusals import refuses

diffusers = pytest.importorskip("diffusers")

WITHOUT_CALL = {"KolorsImg2ImgPipeline", "KolorsPAGPipeline", "KolorsPipeline"}  # they need another library


@pytest.mark.parametrize(
    ("pipeline", "argument", "value"),
    [
        ("FluxFillPipeline", GUIDANCE, 30.0),
        ("StableDiffusionXLPipeline", GUIDANCE, 5.0),
        ("StableDiffusionControlNetInpaintPipeline", "controlnet_conditioning_scale", 0.5),
        ("StableDiffusionAdapterPipeline", "adapter_conditioning_scale", 1.0),
        ("StableDiffusionPipeline", "controlnet_conditioning_scale", 2.0),  # it has none
        ("UserPipeline", GUIDANCE, 2.0),
    ],
)
def test_a_condition_has_the_default_of_its_pipeline(pipeline: str, argument: str, value: float) -> None:
    assert call_default(pipeline, argument, 2.0) == value


def test_without_diffusers_only_the_default_of_an_lcm_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_defaults, "find_spec", lambda name: None)
    assert call_default("LatentConsistencyModelPipeline", GUIDANCE, 8.5) == 8.5
    with refuses("guidance_scale that a StableDiffusionXLPipeline passes", "pip install diffusers torch"):
        call_default("StableDiffusionXLPipeline", GUIDANCE, 8.5)


def test_a_placeholder_of_diffusers_has_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    placeholder = type("FluxFillPipeline", (), {"_backends": ["torch", "transformers"]})
    monkeypatch.setattr(diffusers, "FluxFillPipeline", placeholder)
    with refuses("guidance_scale that a FluxFillPipeline passes", "pip install torch transformers"):
        call_default("FluxFillPipeline", GUIDANCE, 3.5)


def test_the_pipelines_that_raise_a_small_size_are_listed() -> None:
    listed = [name for name in PIPELINES if hasattr(diffusers, name) and name not in WITHOUT_CALL]
    raising = {name for name in listed if "sample_size_less_64" in inspect.getsource(getattr(diffusers, name).__init__)}
    absent = {name for name in RAISE_SIZE if not hasattr(diffusers, name)}
    assert raising == set(RAISE_SIZE) - absent and len(raising) > 5


@pytest.mark.parametrize(
    ("version", "pipeline", "size"),
    [
        ("0.6.0", "StableDiffusionPipeline", 64),
        ("0.9.0", "StableDiffusionPipeline", 32),
        (None, "StableDiffusionPipeline", 32),
        ("0.6.0", "StableDiffusionUpscalePipeline", 32),
    ],
)
def test_an_old_folder_of_stable_diffusion_has_the_size_that_its_pipeline_sets(
    version: str | None, pipeline: str, size: int, tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    config = {"in_channels": 4, "cross_attention_dim": 12, "sample_size": 32, "_diffusers_version": version}
    assert UNet2DConditionModel(config, Folder(tmp_path)).x_shape == (4, size, size)
