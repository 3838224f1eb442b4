"""Facts that fewstep reads from the configs of published models: shapes, conditions, and the networks' names for
them.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.listed.classes import CLASSES
from fewstep.pipelines.listed.control import ADAPTER, add_control, has_adapter
from fewstep.pipelines.listed.folder import load_diffusers_folder
from fewstep.pipelines.listed.interface import Interface
from fewstep.plans.errors import UserError
from tests.refusals import refuses

VAE = {"vae/config.json": {"sample_size": 1024, "block_out_channels": [128, 256, 512, 512]}}
SD = {"in_channels": 4, "out_channels": 4, "sample_size": 64, "cross_attention_dim": 768}
SDXL = {
    **SD,
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FLUX = {"in_channels": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True}


def folder(path: Path, index: dict[str, Any], files: dict[str, Any]) -> Folder:
    for name, content in {"model_index.json": index, **files}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(content))
    return Folder(path)


def read(name: str, config: dict[str, Any], of: Folder) -> Interface:
    return next(reader for reader in CLASSES if reader.__name__ == name)(config, of)


UNET = "UNet2DConditionModel"


@dataclass(frozen=True)
class Published:
    """The config of a network and the other files of its folder, with the expected x and shapes by argument."""

    config: dict[str, Any]
    x_shape: tuple[int, ...]
    taken: dict[str, tuple[int, ...]]
    network: str = UNET
    index: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)


def tokenizer(length: int, number: str = "") -> dict[str, Any]:
    return {f"tokenizer{number}/tokenizer_config.json": {"model_max_length": length}}


LATENT, LARGE, TEXT = (4, 64, 64), (4, 128, 128), "encoder_hidden_states"
PUBLISHED = {
    "sd15": Published(
        SD, LATENT, {TEXT: (77, 768)}, files={"text_encoder/config.json": {"max_position_embeddings": 77}}
    ),
    "lcm-inpainting": Published(
        {**SD, "in_channels": 9, "time_cond_proj_dim": 256},
        LATENT,
        {TEXT: (77, 768), "timestep_cond": (256,), "image": (5, 64, 64)},
    ),
    "sdxl": Published(SDXL, LARGE, {TEXT: (77, 2048), "added.text_embeds": (1280,), "added.time_ids": (6,)}, files=VAE),
    "sdxl-refiner": Published(
        {**SDXL, "projection_class_embeddings_input_dim": 2560, "cross_attention_dim": 1280},
        LARGE,
        {TEXT: (77, 1280), "added.text_embeds": (1280,), "added.time_ids": (4,), "aesthetic_score": ()},
        index={"requires_aesthetics_score": True},
        files=VAE,
    ),
    "upscaler": Published(
        {**SD, "in_channels": 7, "num_class_embeds": 1000},
        LATENT,
        {TEXT: (77, 768), "class_labels": (), "image": (3, 64, 64)},
    ),
    "unclip": Published(
        {**SD, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048},
        LATENT,
        {TEXT: (77, 768), "class_labels": (2048,)},
    ),
    "kandinsky-2.2": Published(
        {**SD, "out_channels": 8, "encoder_hid_dim": 1280, "encoder_hid_dim_type": "image_proj"}
        | {"addition_embed_type": "image"},
        LATENT,
        {"added.image_embeds": (1280,)},
    ),
    "kandinsky-2.2-inpainting": Published(
        {**SD, "in_channels": 9, "out_channels": 8, "encoder_hid_dim": 1280, "encoder_hid_dim_type": "image_proj"}
        | {"addition_embed_type": "image"},
        LATENT,
        {"added.image_embeds": (1280,), "image": (5, 64, 64)},
        index={"_class_name": "KandinskyV22InpaintPipeline"},
    ),
    "flux-dev": Published(
        FLUX,
        (16, 128, 128),
        {TEXT: (512, 4096), "pooled_projections": (768,), "guidance": ()},
        "FluxTransformer2DModel",
        files=VAE | tokenizer(512, "_2"),
    ),
    "flux-fill": Published(
        {**FLUX, "in_channels": 384, "out_channels": 64, "guidance_embeds": False},
        (16, 128, 128),
        {TEXT: (256, 4096), "pooled_projections": (768,), "image": (80, 128, 128)},
        "FluxTransformer2DModel",
        files=tokenizer(256, "_2"),
    ),
}


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_a_published_config(published: Published, tmp_path: Path) -> None:
    found = read(published.network, published.config, folder(tmp_path, published.index, published.files))
    assert found.x_shape == published.x_shape
    shapes = [condition.shape for condition in found.conditions]
    assert dict(zip(found.arguments, shapes, strict=True)) == published.taken
    assert [each.input for each in found.conditions] == [name.removeprefix("added.") for name in published.taken]


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_a_caller_chooses_the_length_of_texts_where_the_pipeline_lets_it(published: Published, tmp_path: Path) -> None:
    of = folder(tmp_path, published.index, published.files)
    usual, short = (read(published.network, published.config, each) for each in (of, replace(of, text_length=40)))
    changed = [a.shape != b.shape for a, b in zip(usual.conditions, short.conditions, strict=True)]
    assert any(changed) == (published.network == "FluxTransformer2DModel")
    texts = [each for each, is_changed in zip(short.conditions, changed, strict=True) if is_changed]
    assert all(each.shape[0] == 40 for each in texts)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"height": 512}, ("--call height is for recorded", "--call max_sequence_length=N")),
        ({"max_sequence_length": 513}, ("max_sequence_length 513", "from 1 to 512")),
        ({"max_sequence_length": True}, ("max_sequence_length True", "from 1 to 512")),
    ],
)
def test_another_argument_of_a_call_is_refused(call: dict[str, Any], says: tuple[str, ...], tmp_path: Path) -> None:
    network = "FluxTransformer2DModel"
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", network]}
    folder(tmp_path, index, {"transformer/config.json": {"_class_name": network}})
    with refuses(*says):
        load_diffusers_folder(tmp_path, call)


def test_what_a_pipeline_fills_in_by_itself_has_a_default(tmp_path: Path) -> None:
    found = {each.name: each for each in read(UNET, SDXL, folder(tmp_path, {}, VAE)).conditions}
    assert found["time_ids"].default == (1024, 1024, 0, 0, 1024, 1024) and found["time_ids"].shared
    assert found["text"].default is None and not found["text"].shared


def test_the_score_of_the_refiner_differs_in_the_unconditional_branch(tmp_path: Path) -> None:
    """The pipeline's aesthetic_score and negative_aesthetic_score; its sizes are the same in both branches."""
    refiner = PUBLISHED["sdxl-refiner"]
    found = {each.name: each for each in read(UNET, refiner.config, folder(tmp_path, refiner.index, VAE)).conditions}
    score = found["aesthetic_score"]
    assert (score.default, score.null, score.shared) == ((6.0,), 2.5, False)
    assert found["time_ids"].default == (1024, 1024, 0, 0) and found["time_ids"].shared


def test_an_onnx_file_takes_the_score_as_one_of_its_time_ids(tmp_path: Path) -> None:
    refiner = PUBLISHED["sdxl-refiner"]
    of = folder(tmp_path, refiner.index, {**VAE, "unet/model.onnx": {}})
    found = {each.name: each for each in read(UNET, refiner.config, of).conditions}
    assert found["time_ids"].default == (1024, 1024, 0, 0, 6) and "aesthetic_score" not in found


def test_a_flux_gets_times_up_to_one(tmp_path: Path) -> None:
    assert read("FluxTransformer2DModel", FLUX, folder(tmp_path, {}, {})).time_scale == 1e-3


def test_a_control_picture_is_as_large_as_the_sample(tmp_path: Path) -> None:
    config = {"_class_name": "T2IAdapter", "adapter_type": "full_adapter"}
    of = folder(tmp_path, {ADAPTER: ["diffusers", "T2IAdapter"]}, {f"{ADAPTER}/config.json": config})
    assert has_adapter(of, UNET)
    found = add_control(read(UNET, SD, of), of)
    assert found.conditions[-2].name == "control" and found.conditions[-2].shape == (3, 512, 512)
    assert found.conditions[-1].default == (1.0,) and found.arguments[-1] == "conditioning_scale"


@pytest.mark.parametrize(
    ("network", "named", "config", "says"),
    [
        ("FluxTransformer2DModel", "T2IAdapter", {"_class_name": "T2IAdapter"}, "a FluxTransformer2DModel"),
        ("UNet2DConditionModel", "MultiAdapter", None, "with a MultiAdapter"),
    ],
)
def test_a_control_network_of_another_kind_is_one_line(
    network: str, named: str, config: dict[str, Any] | None, says: str, tmp_path: Path
) -> None:
    files = {} if config is None else {"adapter/config.json": config}
    (tmp_path / "adapter").mkdir()
    with pytest.raises(UserError, match=f"{says}.*; write a function that returns"):
        has_adapter(folder(tmp_path, {"adapter": ["diffusers", named]}, files), network)


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        (UNET, {**SD, "addition_embed_type": "text_image"}, "addition_embed_type 'text_image'"),
        (UNET, {**SD, "class_embed_type": "of-my-own"}, "class_embed_type 'of-my-own'"),
        ("UNet2DModel", {**SD, "sample_size": None}, "sample_size None in config.json"),
        ("FluxTransformer2DModel", {**FLUX, "in_channels": 63}, "with 63 channels out of 63"),
    ],
)
def test_what_a_config_asks_for_and_fewstep_lacks_is_one_line(
    name: str, config: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        read(name, config, folder(tmp_path, {}, {}))


def test_a_tokenizer_of_no_length_is_named(tmp_path: Path) -> None:
    files = {"tokenizer_2/tokenizer_config.json": {"model_max_length": "long"}}
    with pytest.raises(UserError, match="tokenizer_2 has model_max_length 'long'"):
        read("FluxTransformer2DModel", FLUX, folder(tmp_path, {}, files))


def test_a_pipeline_with_a_text_encoder_pads_to_its_default_length(tmp_path: Path) -> None:
    index = {"text_encoder_2": ["transformers", "T5EncoderModel"]}
    files = {**tokenizer(64, "_2"), "text_encoder_2/config.json": {}}
    taken = read("FluxTransformer2DModel", FLUX, folder(tmp_path, index, files)).conditions
    assert next(each.shape for each in taken if each.name == "text")[0] == 512


@pytest.mark.parametrize(("length", "is_named"), [(256, True), (512, False), (1024, False)])
def test_a_length_below_the_default_of_the_pipeline_is_named(
    length: int, is_named: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = {"_class_name": "FluxPipeline"}
    read("FluxTransformer2DModel", FLUX, folder(tmp_path, index, tokenizer(length, "_2")))
    said = (
        f"texts of this bundle have {length} tokens, as tokenizer_2 says, since the folder has no text_encoder_2: Flux"
    )
    assert (f"{said}Pipeline pads them to 512 by default" in caplog.text) == is_named


@pytest.mark.parametrize(
    ("named", "kind"),
    [(["transformers", "CLIPTextModel"], "CLIPTextModel"), ({"a": 1}, "{'a': 1}"), (-1, "-1"), ([], "[]")],
)
def test_the_class_of_a_component_is_a_text_whatever_the_index_says(named: Any, kind: str, tmp_path: Path) -> None:
    assert folder(tmp_path, {"text_encoder": named}, {}).class_of("text_encoder") == kind
