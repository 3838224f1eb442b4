"""Text encoders of published pipelines as one network, compared with the pipelines' own `encode_prompt`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import diffusers
import transformers
from safetensors.torch import save_file

from fewstep.export.companions.text import TextSource
from fewstep.export.tracing.weights.stored_halves import to_float32
from fewstep.graph import widened
from fewstep.pipelines.companions.text import find_t5, merge_loras, read_text
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.listed.unets import UNet2DConditionModel
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.lora.file import read_lora
from tests.refusals import refuses
from tests.tiny_pipelines import clip, t5, t5_tokenizer, text_encoders, write_clip_tokenizer

PROMPTS = ["a photo of a cat, a dog", "A DOG! " * 60, ""]


def conditions(**shapes: tuple[int, ...]) -> tuple[Condition, ...]:
    return tuple(
        Condition(name, name, shape, "int64" if "mask" in name else "float32") for name, shape in shapes.items()
    )


def ours(source: TextSource | None, prompts: Sequence[str] = PROMPTS) -> list[np.ndarray]:
    """Return the module's outputs for the prompts, in order."""
    assert source is not None
    fed = source.tokenize(prompts)
    with torch.no_grad():
        made = source.companion.load()(*(torch.from_numpy(fed[tensor.name]) for tensor in source.companion.inputs))
    assert [tuple(each.shape[1:]) for each in made] == [tensor.shape[1:] for tensor in source.companion.outputs]
    return [each.numpy() for each in made]


def same(found: np.ndarray, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)


def two_clips(home: Path, projected: tuple[bool, bool]) -> dict[str, Any]:
    """Two text encoders with their tokenizers, the second padded with "!" as published ones are."""
    files = write_clip_tokenizer(home / "tokenizer"), write_clip_tokenizer(home / "tokenizer_2", pad="!")
    return {
        "text_encoder": clip(files[0], projected[0]),
        "text_encoder_2": clip(files[1], projected[1], width=20, layers=3),
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(files[0]),
        "tokenizer_2": transformers.CLIPTokenizer.from_pretrained(files[1]),
    }


def test_stable_diffusion_xl(tmp_path: Path) -> None:
    pipeline = text_encoders(tmp_path, "StableDiffusionXLPipeline", **two_clips(tmp_path, (False, True)))
    text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
    takes = conditions(text=(77, 32), pooled_text=(18,), time_ids=(6,))
    found = ours(read_text(Folder(tmp_path), "UNet2DConditionModel", takes))
    same(found[0], text)
    same(found[1], pooled)


def write_fields(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def one_clip(home: Path) -> Any:
    """Write the text encoder of Stable Diffusion 1. Return its pipeline."""
    files = write_clip_tokenizer(home / "tokenizer")
    components = {"text_encoder": clip(files), "tokenizer": transformers.CLIPTokenizer.from_pretrained(files)}
    return text_encoders(home, "StableDiffusionPipeline", **components)


def test_a_clip_whose_config_says_so_masks_padding(tmp_path: Path) -> None:
    pipeline = one_clip(tmp_path)
    pipeline.text_encoder.config.use_attention_mask = True
    write_fields(tmp_path / "text_encoder/config.json", use_attention_mask=True)
    text, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
    (found,) = ours(read_text(Folder(tmp_path), "UNet2DConditionModel", conditions(text=(77, 12))))
    same(found, text)


def test_texts_of_stable_diffusion_have_the_length_of_the_tokenizer(tmp_path: Path) -> None:
    pipeline = one_clip(tmp_path)
    pipeline.tokenizer.model_max_length = 40
    write_fields(tmp_path / "tokenizer/tokenizer_config.json", model_max_length=40)
    text, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
    config = {"in_channels": 4, "sample_size": 8, "cross_attention_dim": 12}
    takes = UNet2DConditionModel(config, Folder(tmp_path)).conditions
    (found,) = ours(read_text(Folder(tmp_path), "UNet2DConditionModel", takes))
    same(found, text)


def test_a_token_of_several_embeddings_is_read_as_all_of_them(tmp_path: Path) -> None:
    """As `load_textual_inversion` adds them, and the pipeline inserts them into prompts."""
    pipeline = one_clip(tmp_path)
    pipeline.tokenizer.add_tokens(["<cat>", "<cat>_1", "<cat>_2", "<dog>"])
    pipeline.text_encoder.resize_token_embeddings(len(pipeline.tokenizer))
    pipeline.tokenizer.save_pretrained(tmp_path / "tokenizer")
    pipeline.text_encoder.save_pretrained(tmp_path / "text_encoder")
    prompts = ["a <cat>, a <dog>", "<cat> <cat>"]
    text, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
    source = read_text(Folder(tmp_path), "UNet2DConditionModel", conditions(text=(77, 12)))
    (found,) = ours(source, prompts)
    same(found, text)


def test_the_positions_of_a_whole_clip_are_those_of_its_texts(tmp_path: Path) -> None:
    """The config of a CLIP with 248 positions, as trained for long texts, describes its text encoder in text_config."""
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder/config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 248}}))
    (tmp_path / "model_index.json").write_text(json.dumps({"text_encoder": ["transformers", "CLIPTextModel"]}))
    config = {"in_channels": 4, "sample_size": 8, "cross_attention_dim": 12}
    assert UNet2DConditionModel(config, Folder(tmp_path)).conditions[0].shape == (248, 12)


@pytest.mark.parametrize(
    ("pipeline", "tokens"),
    [
        ("StableDiffusionPipeline", 77),
        ("StableDiffusionImageVariationPipeline", 1),
        ("PaintByExamplePipeline", 1),
        ("MarigoldDepthPipeline", 2),
    ],
)
def test_a_text_has_the_tokens_that_its_pipeline_gives_the_network(pipeline: str, tokens: int, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    config = {"in_channels": 4, "sample_size": 8, "cross_attention_dim": 12}
    assert UNet2DConditionModel(config, Folder(tmp_path)).conditions[0].shape == (tokens, 12)


def test_an_empty_prompt_of_two_tokens_is_that_of_a_pipeline_without_padding(tmp_path: Path) -> None:
    """As MarigoldDepthPipeline encodes its only text."""
    pipeline = one_clip(tmp_path)
    ids = pipeline.tokenizer("", padding="do_not_pad", return_tensors="pt").input_ids
    (found,) = ours(read_text(Folder(tmp_path), "UNet2DConditionModel", conditions(text=(2, 12))), [""])
    same(found, pipeline.text_encoder(ids)[0])


@pytest.mark.parametrize("kind", ["T5Tokenizer", "GPT2Tokenizer", "BertTokenizer"])
def test_a_class_that_reads_texts_differently_from_the_tokenizers_files_is_refused(kind: str, tmp_path: Path) -> None:
    one_clip(tmp_path)
    write_fields(tmp_path / "model_index.json", tokenizer=["transformers", kind])
    with refuses((f"says that tokenizer is a {kind}", "and its files as ["), "name the class that wrote the files"):
        read_text(Folder(tmp_path), "UNet2DConditionModel", conditions(text=(77, 12)))


@pytest.mark.parametrize(
    ("field", "value"), [("padding_side", "left"), ("truncation_side", "left"), ("split_special_tokens", True)]
)
def test_a_setting_of_a_tokenizer_that_fewstep_does_not_read_is_refused(
    field: str, value: object, tmp_path: Path
) -> None:
    one_clip(tmp_path)
    write_fields(tmp_path / "tokenizer/tokenizer_config.json", **{field: value})
    with refuses(("tokenizer_config.json", field), "encoded texts"):
        read_text(Folder(tmp_path), "UNet2DConditionModel", conditions(text=(77, 12)))


def test_flux(tmp_path: Path) -> None:
    files = write_clip_tokenizer(tmp_path / "tokenizer")
    pipeline = text_encoders(
        tmp_path,
        "FluxPipeline",
        text_encoder=clip(files),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(files),
        text_encoder_2=t5(16),
        tokenizer_2=t5_tokenizer(24),
    )
    text, pooled, _ = pipeline.encode_prompt(PROMPTS, PROMPTS, device="cpu", max_sequence_length=24)
    takes = conditions(text=(24, 16), pooled_text=(12,), guidance=())
    found = ours(read_text(Folder(tmp_path), "FluxTransformer2DModel", takes))
    same(found[0], text)
    same(found[1], pooled)


def test_encoders_that_fewstep_does_not_know_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_clip_tokenizer(tmp_path / "tokenizer")
    components = {"text_encoder": clip(files), "tokenizer": transformers.CLIPTokenizer.from_pretrained(files)}
    text_encoders(tmp_path, "StableDiffusionPipeline", **components)
    assert read_text(Folder(tmp_path), "DiTTransformer2DModel", conditions(text=(77, 12))) is None
    assert "text encoders text_encoder CLIPTextModel of a DiTTransformer2DModel are left out" in caplog.text


def test_a_tokenizer_without_files_is_one_line(tmp_path: Path) -> None:
    files = write_clip_tokenizer(tmp_path / "tokenizer")
    components = {"text_encoder": clip(files), "tokenizer": transformers.CLIPTokenizer.from_pretrained(files)}
    text_encoders(tmp_path, "StableDiffusionPipeline", **components)
    (tmp_path / "tokenizer" / "merges.txt").unlink()
    with refuses(("tokenizer.json", "vocab.json", "spiece.model")):
        read_text(Folder(tmp_path), "UNet2DConditionModel", conditions(text=(77, 12)))


def test_latent_consistency_models_get_the_weight_of_their_pipeline(tmp_path: Path) -> None:
    """The weight is embedded in 256 numbers. In float32 the angle of the first, 7500, is exact to 2e-4."""
    pipeline = diffusers.LatentConsistencyModelPipeline
    expected = pipeline.get_guidance_scale_embedding(None, torch.tensor([8.5 - 1]), 256)[0]
    (tmp_path / "model_index.json").write_text("{}")
    config = {"in_channels": 4, "sample_size": 64, "cross_attention_dim": 768, "time_cond_proj_dim": 256}
    guidance = UNet2DConditionModel(config, Folder(tmp_path)).conditions[1]
    assert guidance.name == "guidance" and guidance.shared and guidance.default is not None
    np.testing.assert_allclose(guidance.default, expected, atol=1e-3)


def test_a_text_encoder_without_a_tokenizer_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_clip_tokenizer(tmp_path / "elsewhere")
    text_encoders(tmp_path, "StableDiffusionPipeline", text_encoder=clip(files))
    assert read_text(Folder(tmp_path), "UNet2DConditionModel", conditions(text=(77, 12))) is None
    assert "has no tokenizer: its text encoders are left out" in caplog.text


def test_a_t5_is_found_by_its_model_type() -> None:
    assert find_t5({"text_encoder": "clip_text_model", "text_encoder_2": "umt5"}) == "text_encoder_2"
    assert find_t5({"text_encoder": "t5", "text_encoder_2": "t5"}) is None and find_t5({"text_encoder": None}) is None


def test_a_lora_is_merged_into_an_encoder_whose_weights_stay_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widened, "LEAST_BYTES", 1)
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False)).bfloat16()
    before, down, up = encoder[0].weight.detach().float(), torch.randn(2, 8), torch.randn(8, 2)
    factors = {"text_encoder.0.lora_A.weight": down, "text_encoder.0.lora_B.weight": up}
    save_file(factors, tmp_path / "lora.safetensors")
    merge_loras(to_float32(encoder), [read_lora(str(tmp_path / "lora.safetensors"))], "text_encoder")
    torch.testing.assert_close(encoder[0].weight.detach(), before + up @ down)
