"""The entries of a pipeline's model_index.json: components, and settings."""

import json
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.recording.components import _find_class, _is_component, _is_denoiser, build_pipeline
from tests.refusals import refuses


@pytest.mark.parametrize("entry", [["diffusers", "AutoencoderKL"], [None, None]])
def test_a_library_and_a_class_are_a_component(entry: object) -> None:
    assert _is_component(entry)


@pytest.mark.parametrize("entry", [[2, 5], [2, 5, 8], 0.9, None, "text", []])
def test_numbers_in_a_list_are_a_setting(entry: object) -> None:
    assert not _is_component(entry)


def test_a_class_that_only_the_module_of_the_pipeline_knows_is_found(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableCascadeDecoderPipeline"}))
    assert _find_class(Folder(tmp_path), "vqgan", "diffusers", "PaellaVQModel").__name__ == "PaellaVQModel"


@pytest.mark.parametrize(("name", "is_denoiser"), [("unet", True), ("projection_model", False)])
def test_a_network_that_a_pipeline_defines_is_its_denoiser_by_its_name(name: str, is_denoiser: bool) -> None:
    from diffusers import AudioLDM2UNet2DConditionModel

    assert _is_denoiser(name, AudioLDM2UNet2DConditionModel) is is_denoiser


def test_a_denoiser_whose_config_names_another_class_is_refused(tmp_path: Path) -> None:
    """diffusers would load the class of the index, and export the one of the config."""
    from diffusers import WanTransformer3DModel

    small = {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 4, "text_dim": 4, "ffn_dim": 4}
    config = {**WanTransformer3DModel(**small, freq_dim=4).config, "_class_name": "WanVACETransformer3DModel"}
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/config.json").write_text(json.dumps(config))
    index = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with refuses("says that transformer is a WanTransformer3DModel", "name the same class in both"):
        build_pipeline(Folder(tmp_path))


def test_a_network_without_its_config_is_refused(tmp_path: Path) -> None:
    entries = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(entries))
    (tmp_path / "unet").mkdir()
    with refuses("unet is not the config of a UNet2DModel"):
        build_pipeline(Folder(tmp_path))


def test_a_component_without_its_folder_is_refused(tmp_path: Path) -> None:
    entries = {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(entries))
    with refuses("has no folder scheduler, which its model_index.json names", "copy the folder again"):
        build_pipeline(Folder(tmp_path))
