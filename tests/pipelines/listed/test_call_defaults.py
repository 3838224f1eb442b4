"""Conditions have the defaults of the pipelines' own calls."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.listed.call_defaults import (
    DISTILLED_GUIDANCE,
    FLUX_GUIDANCE,
    default_control_scale,
    default_guidance,
)
from fewstep.pipelines.listed.unets import RAISE_SIZE, UNet2DConditionModel
from fewstep.plans.configs.pipelines import PIPELINES

diffusers = pytest.importorskip("diffusers")

WITHOUT_CALL = {"KolorsImg2ImgPipeline", "KolorsPAGPipeline", "KolorsPipeline"}  # they need another library


def default(name: str, argument: str) -> Any:
    """Return the default of an argument of a pipeline's call; None if it has no such argument."""
    found = inspect.signature(getattr(diffusers, name).__call__).parameters.get(argument)
    return None if found is None else found.default


def reads_guidance(name: str) -> bool:
    return "time_cond_proj_dim" in inspect.getsource(getattr(diffusers, name).__call__)


def test_guidance_that_a_network_reads_is_that_of_its_pipeline() -> None:
    listed = [name for name in PIPELINES if hasattr(diffusers, name) and name not in WITHOUT_CALL]
    flux, others = [name for name in listed if name.startswith("Flux")], [*filter(reads_guidance, listed)]
    assert len(flux) > 10 and len(others) > 20
    expected = {name: default(name, "guidance_scale") for name in (*flux, *others)}
    found = {name: default_guidance(name, FLUX_GUIDANCE) for name in flux}
    assert {**found, **{name: default_guidance(name, DISTILLED_GUIDANCE) for name in others}} == expected


@pytest.mark.parametrize("argument", ["controlnet_conditioning_scale", "adapter_conditioning_scale"])
def test_the_scale_of_a_control_is_that_of_its_pipeline(argument: str) -> None:
    listed = [name for name in PIPELINES if hasattr(diffusers, name) and name not in WITHOUT_CALL]
    expected = {name: scale for name in listed if (scale := default(name, argument)) is not None}
    assert {name: default_control_scale(name) for name in expected} == expected


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
