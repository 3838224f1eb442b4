"""The entries of a pipeline's model_index.json: components, and settings."""

import json
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
from fewstep.export.sources.diffusers.files import Folder
from fewstep.export.sources.diffusers.recording.components import _find_class, _is_component, _is_denoiser


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
