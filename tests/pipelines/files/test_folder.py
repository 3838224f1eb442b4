"""Folders that no recording can be made of."""

import json
import sys
from pathlib import Path

import pytest

from fewstep.export.load_source import load_source
from fewstep.pipelines.files.folder import Folder, refuse_onnx
from fewstep.pipelines.kind import PIPELINE
from tests.refusals import refuses

pytest.importorskip("torch")
pytest.importorskip("diffusers")


def write(folder: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def test_a_folder_that_optimum_wrote_is_refused_with_its_file(tmp_path: Path) -> None:
    files = {
        "model_index.json": {"_class_name": "StableDiffusionPipeline", "unet": ["optimum", "ORTModel"]},
        "unet/model.onnx": None,
        "scheduler/scheduler_config.json": {"_class_name": "DDIMScheduler"},
    }
    with refuses("contains unet/model.onnx", ("unet/model.onnx --spec SPEC.json", "that was exported to it")):
        load_source(str(write(tmp_path / "a", files)))


def test_a_folder_with_weights_may_have_onnx_files_too(tmp_path: Path) -> None:
    index = {"model_index.json": {"unet": ["diffusers", "UNet2DConditionModel"]}}
    files = {**index, "unet/model.onnx": None, "unet/diffusion_pytorch_model.fp16.safetensors": None}
    refuse_onnx(Folder(write(tmp_path, files)))


def test_a_network_in_the_folder_of_its_pipeline_names_that_folder(tmp_path: Path) -> None:
    write(tmp_path, {"a/model_index.json": {}, "a/unet/config.json": {"_class_name": "UNet2DModel"}})
    with refuses("is only a UNet2DModel", str(tmp_path / "a")):
        load_source(str(tmp_path / "a" / "unet"))


def test_a_network_alone_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, {"unet/config.json": {"_class_name": "UNet2DModel"}})
    with refuses("is only a UNet2DModel", ("into the folder of its pipeline", "(module, Spec)")):
        load_source(str(tmp_path / "unet"))


@pytest.mark.parametrize(("name", "says"), [("OwnPipeline", "OwnPipeline"), (None, "without a name")])
def test_a_class_that_diffusers_lacks_is_named(name: str | None, says: str, tmp_path: Path) -> None:
    files = {"model_index.json": {"_class_name": name}, "scheduler/scheduler_config.json": {"_class_name": "A"}}
    with refuses(("has no pipeline", says), "function"):
        load_source(str(write(tmp_path / "a", files)))


def test_the_weights_of_all_networks_are_fetched_from_a_hub(tmp_path: Path) -> None:
    index = {
        "transformer_2": ["diffusers", "WanTransformer3DModel"],
        "vocoder": ["transformers", "SpeechT5HifiGan"],
        "text_encoder": ["kolors", "ChatGLMModel"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "tokenizer": ["transformers", "T5Tokenizer"],
    }
    configs = {f"{name}/config.json": {} for name in ("vocoder", "text_encoder", "safety_checker")}
    configs |= {"transformer_2/config.json": {"_class_name": "WanTransformer3DModel"}}
    write(tmp_path, {"model_index.json": index, **configs})
    assert PIPELINE.weights(tmp_path) == [
        "transformer_2/diffusion_pytorch_model.safetensors",
        "vocoder/model.safetensors",
        "text_encoder/model.safetensors",
    ]


@pytest.mark.parametrize(
    ("named", "kind"),
    [(["transformers", "CLIPTextModel"], "CLIPTextModel"), ({"a": 1}, "{'a': 1}"), (-1, "-1"), ([], "[]")],
)
def test_the_class_of_a_component_is_a_text_whatever_the_index_says(named: object, kind: str, tmp_path: Path) -> None:
    folder = write(tmp_path, {"model_index.json": {"text_encoder": named}})
    assert Folder(folder).class_of("text_encoder") == kind


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_a_library_that_is_not_installed_is_named(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"model_index.json": {"_class_name": "A"}, "scheduler/scheduler_config.json": {"_class_name": "A"}}
    monkeypatch.setitem(sys.modules, library, None)
    with refuses((f"needs {library}", "cannot be imported"), f"pip install {library}"):
        load_source(str(write(tmp_path / "a", files)))


def test_a_network_may_be_in_the_folder_of_its_pipeline_itself(tmp_path: Path) -> None:
    files = {
        "model_index.json": {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]},
        "config.json": {"_class_name": "UNet2DModel"},
        "scheduler_config.json": {"_class_name": "DDPMScheduler"},
    }
    folder = Folder(write(tmp_path, files))
    assert [folder.home(name) for name in ("unet", "scheduler", "vae")] == [tmp_path, tmp_path, tmp_path / "vae"]
    assert PIPELINE.weights(tmp_path) == ["diffusion_pytorch_model.safetensors"]
