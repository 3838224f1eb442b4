"""Folders by the class of their pipeline: sampled by its rules, or exported with a warning."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.pipelines.companions.networks import read_pipeline
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.listed.interface import Interface
from fewstep.pipelines.listed.pipelines import warn_of_pipeline, with_unheld_start
from fewstep.plans.configs.pipelines import UNHELD_START
from fewstep.plans.errors import UserError
from fewstep.runtime.sampling.loading import load
from tests.families import tiny
from tests.tiny_pipelines import flux_transformer

diffusers = pytest.importorskip("diffusers")
TOKENS = 64


def flux(folder: Path, pipeline: Any, channels: int = 64) -> Path:
    """A folder of FLUX.1 with a dynamic shift, without texts and autoencoder."""
    network = flux_transformer(channels, 8, 8, out_channels=64)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    configs = {"tokenizer_2/tokenizer_config.json": {"model_max_length": 5}}
    path = Path(tiny.diffusers_folder(folder, network, "transformer", scheduler, pipeline=pipeline, configs=configs))
    index = json.loads((path / "model_index.json").read_text()) | {"vae": ["diffusers", "AutoencoderKL"]}
    (path / "vae").mkdir()
    sizes = {"_class_name": "Other", "sample_size": 128, "block_out_channels": [8] * 4}
    (path / "vae" / "config.json").write_text(json.dumps(sizes))
    (path / "model_index.json").write_text(json.dumps(index))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("pipeline", "channels"), [("FluxInpaintPipeline", 64), ("FluxControlImg2ImgPipeline", 128)])
def test_a_bundle_of_the_family_of_flux_shifts_by_its_tokens(pipeline: str, channels: int, tmp_path: Path) -> None:
    export(ExportOptions(str(flux(tmp_path / "f", pipeline, channels)), tmp_path / "bundle", verify="quick"))
    times = [step.time for step in load(tmp_path / "bundle").compile("scheduler:4").steps]
    mu = 0.5 + (1.15 - 0.5) * (TOKENS - 256) / (4096 - 256)
    np.testing.assert_allclose(times, [1000 / (1 + np.exp(-mu) * (1 / s - 1)) for s in (1, 0.75, 0.5, 0.25)])


@pytest.mark.slow
def test_a_shift_by_an_unknown_rule_is_refused_with_a_plan_that_runs(tmp_path: Path) -> None:
    export(ExportOptions(str(flux(tmp_path / "f", "MyPipeline")), tmp_path / "bundle", verify="quick"))
    sampler = load(tmp_path / "bundle")
    with pytest.raises(
        UserError, match=r"does not know the rule of MyPipeline; .*'ddim:4@dynamic_shift\(tokens=64\)'"
    ) as error:
        sampler.compile("scheduler:4")
    assert len(sampler.compile(str(error.value).split("'")[-2]).steps) == 4


@pytest.mark.parametrize(
    ("pipeline", "says"),
    [
        ("MyPipeline", "the scheduler's own: fewstep does not know what MyPipeline changes"),
        (["pipeline", "MyPipeline"], "the scheduler's own: fewstep does not know what MyPipeline changes"),
        (None, "the scheduler's own: model_index.json names no pipeline"),
        ("StableDiffusionXLInstructPix2PixPipeline", "an image_guidance_scale of 1"),
        ("StableDiffusionPAGPipeline", "no perturbed attention, with which StableDiffusionPAGPipeline guides"),
    ],
)
def test_what_export_does_not_do_as_the_pipeline_is_one_line(
    pipeline: Any, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_source(str(flux(tmp_path, pipeline)))
    others = ("autoencoder", "texts of this bundle")
    said = [record.getMessage() for record in caplog.records]
    (line,) = (each for each in said if not any(other in each for other in others))
    assert says in line


def test_a_score_that_the_unconditional_branch_does_not_share_is_named_for_an_onnx_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SDXL's refiner: one input has the sizes, which all branches share, and the score, which they do not."""
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True})
    )
    warn_of_pipeline(Folder(tmp_path))
    assert not caplog.text
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.onnx").touch()
    warn_of_pipeline(Folder(tmp_path))
    assert "unconditional branch reads one of 2.5" in caplog.text and "--null time_ids=@FILE.npy" in caplog.text


@pytest.mark.parametrize(
    ("pipeline", "arguments", "is_unheld"),
    [
        ("StableDiffusionXLInpaintPipeline", (), True),
        ("StableDiffusionXLInpaintPipeline", ("image",), False),  # with channels for the mask and the image
        ("KandinskyV22InpaintPipeline", ("image",), True),  # with them too
        ("StableDiffusionXLPipeline", (), False),
        ("MyPipeline", (), False),
    ],
)
def test_a_pipeline_without_a_channel_for_the_mask_begins_inpainting_with_noise_everywhere(
    pipeline: str, arguments: tuple[str, ...], is_unheld: bool
) -> None:
    config = {"_class_name": "DDIMScheduler"}
    expected = {**config, **({UNHELD_START: True} if is_unheld else {})}
    assert with_unheld_start(config, pipeline, Interface((4, 8, 8), arguments=arguments)) == expected


def test_networks_by_other_names_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    networks = {"bert": "LDMBertModel", "vqvae": "VQModel", "unet": "UNet2DConditionModel"}
    for each in networks:
        (tmp_path / each).mkdir()
        (tmp_path / each / "config.json").write_text("{}")
    index = {name: ["diffusers", kind] for name, kind in networks.items()} | {"tokenizer": ["t", "BertTokenizer"]}
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "LDMTextToImagePipeline", **index}))
    assert read_pipeline(Folder(tmp_path), networks["unet"], (4, 8, 8), ()) is None
    assert "its networks bert LDMBertModel, vqvae VQModel are left out" in caplog.text


def test_a_known_pipeline_needs_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_source(str(flux(tmp_path, "FluxControlPipeline", 128)))
    assert "scheduler" not in caplog.text


@pytest.mark.parametrize("network", ["LTXVideo", "Wan"])
def test_other_networks_outside_of_a_pipeline_of_diffusers_are_refused(network: str, tmp_path: Path) -> None:
    name = f"{network}Transformer3DModel"
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps({"_class_name": name}))
    index = {"_class_name": "MyPipeline", "transformer": ["diffusers", name], "boundary_ratio": 0.9}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert hasattr(diffusers, name)
    says = f"has no class MyPipeline, and its denoiser is a {name}; without a pipeline fewstep reads UNet2DModel, "
    with pytest.raises(UserError, match=f"diffusers {diffusers.__version__} {says}.*name the class of diffusers"):
        load_source(str(tmp_path))
    with pytest.raises(UserError, match="has no class MyPipeline, whose call could take height"):
        load_source(str(tmp_path), call=["height=16"])
