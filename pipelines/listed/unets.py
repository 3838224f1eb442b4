"""U-Nets of diffusers. One function per class, with the name of the class, reads the interface from a config."""

import re

import numpy as np
from msgspec.structs import replace

from fewstep.export.sources.model_files import Config
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.listed.call_defaults import DISTILLED_GUIDANCE, GUIDANCE, call_default
from fewstep.pipelines.listed.interface import (
    ADDED,
    AESTHETIC_SCORE,
    SCORED,
    TIME_IDS,
    WRITE_IT,
    Interface,
    NamedCondition,
    make_interface,
    number_condition,
    read_x_shape,
    refuse_unless,
    setting_condition,
    vector_condition,
)
from fewstep.pipelines.listed.pipelines import MASKED_KANDINSKY
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition

CLIP_TOKENS = 77  # length of a text if its encoder is not in the folder
# Pipelines that do not pad their "text": an encoded image is one token, and the empty prompt has a start and an end
TOKENS_OF_PIPELINES = {
    "StableDiffusionImageVariationPipeline": 1,
    "PaintByExamplePipeline": 1,
    "MarigoldDepthPipeline": 2,
    "MarigoldIntrinsicsPipeline": 2,
    "MarigoldNormalsPipeline": 2,
}
SCORE, NULL_SCORE = 6.0, 2.5  # of the branches of SDXL's refiner, which reads a score instead of the target size
SCORES = (1.0, 10.0)
SIZES = (0.0, 1024.0)  # range of sizes and crops
NOISE_LEVELS = (0.0, 1000.0)
TIME_FACTOR = 4  # width of the time embedding over that of the first block
FORMER_VERSION, FORMER_SIZE = (0, 9), 64  # before this version, these pipelines raise a smaller sample_size to 64
RAISE_SIZE = (
    "AltDiffusionImg2ImgPipeline",
    "AltDiffusionPipeline",
    "StableDiffusionDepth2ImgPipeline",
    "StableDiffusionImageVariationPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInpaintPipelineLegacy",
    "StableDiffusionPAGImg2ImgPipeline",
    "StableDiffusionPAGInpaintPipeline",
    "StableDiffusionPAGPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionPipelineSafe",
)
PICTURE_FIRST = ("Marigold", "LotusG")  # name prefixes of pipelines that put the picture before x


def UNet2DModel(config: Config, folder: Folder) -> Interface:
    """Return the interface of DDPM's UNet (Ho et al. 2020) and its variants. The network may take class labels, or an
    image as additional channels."""
    return make_interface(config, read_x_shape(config), _class_conditions(config))


def UNet2DConditionModel(config: Config, folder: Folder) -> Interface:
    """The UNet of Stable Diffusion 1, 2 and XL, LCM, inpainting, upscaling, unCLIP and Kandinsky 2.2. It
    takes an encoded text or image, and the further conditions of each pipeline."""
    config = {**config, "sample_size": _sample_size(config, folder)}
    refuse_unless(
        config,
        "UNet2DConditionModel",
        encoder_hid_dim_type=(None, "image_proj"),
        addition_embed_type=(None, "text_time", "image"),
    )
    taken: list[NamedCondition] = []
    images = config.get("encoder_hid_dim_type") == "image_proj"
    if not images:
        taken.append(vector_condition("text", "encoder_hidden_states", _text_tokens(folder), _text_width(config)))
    taken += _class_conditions(config)
    if guidance := config.get("time_cond_proj_dim"):  # LCM: the embedded guidance weight
        usual = _embed_guidance(call_default(folder.pipeline, GUIDANCE, DISTILLED_GUIDANCE), guidance)
        taken.append(setting_condition("guidance", "timestep_cond", usual, (-1.0, 1.0)))
    shape = read_x_shape(config)
    if config.get("addition_embed_type") == "text_time":
        ids = _time_ids(folder, shape)
        scores = _aesthetic_scores(folder)
        numbers = len(ids) + len(scores)
        pooled = config["projection_class_embeddings_input_dim"] - numbers * config["addition_time_embed_dim"]
        taken.append(vector_condition("pooled_text", f"{ADDED}text_embeds", pooled))
        taken += [setting_condition("time_ids", TIME_IDS, ids, SIZES), *scores]
    if images or config.get("addition_embed_type") == "image":
        taken.append(vector_condition("image_embedding", f"{ADDED}image_embeds", config["encoder_hid_dim"]))
    if folder.pipeline in MASKED_KANDINSKY:  # the input also has a mask and a picture, the output a learned variance
        shape = (config["out_channels"] // 2, *shape[1:])
    return make_interface(config, shape, taken, picture_first=folder.pipeline.startswith(PICTURE_FIRST))


def UNet1DModel(config: Config, folder: Folder) -> Interface:
    """A U-Net of one-dimensional data [channels, length], such as sound."""
    return make_interface(config, read_x_shape(config, dimensions=1), [])


def _sample_size(config: Config, folder: Folder) -> object:
    """Return the size of a sample. The first published folders of Stable Diffusion state half of it, which their
    pipelines correct."""
    size, written = config.get("sample_size"), re.match(r"(\d+)\.(\d+)", str(config.get("_diffusers_version")))
    if written is None or (int(written[1]), int(written[2])) >= FORMER_VERSION or folder.pipeline not in RAISE_SIZE:
        return size
    return FORMER_SIZE if isinstance(size, int) and size < FORMER_SIZE else size


def _text_tokens(folder: Folder) -> int:
    """Return the number of tokens of a text. Most pipelines pad it to the maximum of their tokenizer."""
    if folder.pipeline in TOKENS_OF_PIPELINES:
        return TOKENS_OF_PIPELINES[folder.pipeline]
    second = "" if folder.config("text_encoder") else "_2"  # the refiner of SDXL has only the second encoder
    encoder, tokenizer = f"text_encoder{second}", f"tokenizer{second}"
    config = dict(folder.config(encoder))
    inner = config.get("text_config")  # of a whole CLIP
    positions = (config | inner if isinstance(inner, dict) else config).get("max_position_embeddings")
    most = int(positions or CLIP_TOKENS)
    return folder.token_length(tokenizer, most) if folder.has(tokenizer) else most


def _text_width(config: Config) -> int:
    if config.get("encoder_hid_dim"):  # projected inside the network to attention's width
        return int(config["encoder_hid_dim"])
    width = config["cross_attention_dim"]
    return int(width if isinstance(width, int) else width[0])


def _time_ids(folder: Folder, shape: tuple[int, ...]) -> list[float]:
    """Return SDXL's default size conditions: those of an uncropped image in its original size."""
    size = [float(length * folder.pixels_per_latent) for length in shape[1:]]
    if not folder.index.get(SCORED):
        return [*size, 0.0, 0.0, *size]
    return [*size, 0.0, 0.0, *([SCORE] if folder.is_onnx("unet") else [])]


def _aesthetic_scores(folder: Folder) -> list[NamedCondition]:
    """Return the condition for the aesthetic score of SDXL's refiner, whose default differs in the unconditional
    branch. An ONNX file takes the score as one of its `time_ids`."""
    if not folder.index.get(SCORED) or folder.is_onnx("unet"):
        return []
    score, argument = number_condition(AESTHETIC_SCORE, AESTHETIC_SCORE, SCORE, SCORES)
    return [(replace(score, null=NULL_SCORE, shared=False), argument)]


def _class_conditions(config: Config) -> list[NamedCondition]:
    """Return the conditions for `class_labels`: labels, a noise level, or a vector."""
    kind, count = config.get("class_embed_type"), config.get("num_class_embeds")
    if kind is None and count is not None:
        return [(Condition("class", "class_labels", low=0, high=count - 1), "class_labels")]
    if kind is None:
        return []
    if kind == "timestep":
        return [number_condition("noise_level", "class_labels", None, NOISE_LEVELS)]
    if kind == "identity":
        return [vector_condition("class_embedding", "class_labels", TIME_FACTOR * config["block_out_channels"][0])]
    if kind in ("projection", "simple_projection"):
        return [vector_condition("class_embedding", "class_labels", config["projection_class_embeddings_input_dim"])]
    raise UserError(f"fewstep does not read a network with class_embed_type {kind!r}", WRITE_IT)


def _embed_guidance(guidance: float, width: int) -> list[float]:
    """Embed a guidance weight like LCM (Luo et al. 2023, arXiv 2310.04378): sines and cosines of 1000 (w - 1)."""
    half = width // 2
    rates = 10_000.0 ** (-np.arange(half) / max(half - 1, 1))
    angles = 1000.0 * (guidance - 1) * rates
    return [*np.sin(angles), *np.cos(angles), *[0.0] * (width % 2)]
