"""Pipelines of diffusers with tiny networks and random weights, and vocabularies of a few words."""

import json
from pathlib import Path
from typing import Any

import torch

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ("cat", "dog", "photo", "of", "a")  # that CLIP's vocabulary has as one token
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
SMALL: dict[str, Any] = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}  # a transformer's sizes
UNCONDITIONAL_UNET: dict[str, Any] = {  # of DDPM, for samples [3, 8, 8]
    "sample_size": 8,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
}
WITHOUT_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def randomize(network: Any) -> Any:
    """Set random weights, none of which is zero or one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network.eval()


def byte_characters() -> list[str]:
    """The character that byte-level BPE writes for each byte: itself if it is printable, or one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return [*map(chr, seen), *(chr(256 + place) for place in range(len(hidden)))]


def write_clip_tokenizer(home: Path, pad: str = END, **config: Any) -> Path:
    """Write vocab.json, merges.txt and the configs, as for CLIP's tokenizer."""
    home.mkdir(parents=True)
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        done = word[0] if len(word) > 1 else ""
        for letter in word[1:-1]:
            merges.append((done, letter))
            done += letter
        if done:
            merges.append((done, f"{word[-1]}</w>"))
    pairs = list(dict.fromkeys(merges))
    letters = byte_characters()
    made = dict.fromkeys(a + b for a, b in pairs)
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), *made, START, END]
    (home / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (home / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs))
    named = {"bos_token": {"content": START}, "eos_token": END, "unk_token": END, "pad_token": pad}
    (home / "special_tokens_map.json").write_text(json.dumps(named))
    given = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **config}
    (home / "tokenizer_config.json").write_text(json.dumps(given))
    return home


def vocabulary_size(tokenizer: Path) -> int:
    return len(json.loads((tokenizer / "vocab.json").read_text()))


def clip(tokenizer: Path, projected: bool = False, width: int = 12, layers: int = 2) -> Any:
    """Return a text encoder for a tokenizer's folder."""
    import transformers

    size = vocabulary_size(tokenizer)
    config = transformers.CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        projection_dim=width - 2,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return randomize(kind(config))


def qwen_tokenizer() -> Any:
    import transformers

    vocabulary = {token: number for number, token in enumerate([*byte_characters(), "<|endoftext|>"])}
    return transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=1024)


T5_PIECES = ("<pad>", "</s>", "<unk>", "\u2581", "a", "c", "t", "d", "o", "g", "\u2581a", "\u2581cat", "\u2581dog", ",")


def t5_tokenizer(max_length: int) -> Any:
    import transformers

    scores = [(piece, -float(number)) for number, piece in enumerate(T5_PIECES)]
    return transformers.T5Tokenizer(vocab=scores, extra_ids=100, model_max_length=max_length)


def t5(width: int) -> Any:
    import transformers

    config = transformers.T5Config(
        vocab_size=len(T5_PIECES) + 100,
        d_model=width,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return randomize(transformers.T5EncoderModel(config))


def autoencoder(**config: Any) -> Any:
    """Return an autoencoder that doubles the size twice: latents [4, 8, 8], images [3, 16, 16]."""
    import diffusers

    given = {
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "sample_size": 16,
        **config,
    }
    return randomize(diffusers.AutoencoderKL(**given))


def flux_transformer(channels: int, text: int, pooled: int, **more: Any) -> Any:
    """FLUX's network with one block of each kind, for encoded texts of these widths."""
    import diffusers

    return diffusers.FluxTransformer2DModel(
        in_channels=channels,
        num_single_layers=1,
        joint_attention_dim=text,
        pooled_projection_dim=pooled,
        axes_dims_rope=(2, 2, 4),
        **SMALL,
        **more,
    )


def attention_unet(**more: Any) -> Any:
    """Stable Diffusion's network with one block on each side, for latents [4, 8, 8] and texts of 12 numbers."""
    import diffusers

    return diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        norm_num_groups=4,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        attention_head_dim=4,
        cross_attention_dim=12,
        **more,
    )


def clip_components(files: Path, unet: Any) -> dict[str, Any]:
    """The components of a pipeline with a network, and CLIP with the tokenizer in `files`."""
    import diffusers
    import transformers

    return {
        "vae": autoencoder(),
        "text_encoder": clip(files),
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(files),
        "unet": randomize(unet),
        "scheduler": diffusers.DDIMScheduler(**SCHEDULER),
    }


def stable_diffusion(home: Path) -> Any:
    """Write the folder of a text-to-image pipeline, its vocabulary in two files as in published ones. Return it."""
    import diffusers

    torch.manual_seed(0)  # the same pipeline each time
    files = write_clip_tokenizer(home / "tokenizer")
    components = clip_components(files, attention_unet(mid_block_type=None))
    pipeline: Any = diffusers.StableDiffusionPipeline(**components, **WITHOUT_CHECKER)
    for name in ("unet", "vae", "text_encoder", "scheduler"):
        getattr(pipeline, name).save_pretrained(home / name)
    write_index(home, pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_index(home: Path, pipeline: Any, **more: Any) -> None:
    """Write a model_index.json of the folder's components."""
    index: dict[str, Any] = {"_class_name": type(pipeline).__name__, **more}
    for name, component in pipeline.components.items():
        if (home / name).is_dir():
            index[name] = [type(component).__module__.split(".")[0], type(component).__name__]
    (home / "model_index.json").write_text(json.dumps(index))


def text_encoders(home: Path, kind: str, **components: Any) -> Any:
    """Return a pipeline of text encoders and tokenizers only, in its folder; `kind` is its class in diffusers.

    Other components of the class are left out.
    """
    import inspect

    import diffusers

    pipeline = getattr(diffusers, kind)
    wanted = inspect.signature(pipeline.__init__).parameters
    absent = {
        name: None
        for name, parameter in wanted.items()
        if name != "self" and name not in components and parameter.default is inspect.Parameter.empty
    }
    made = pipeline(**components, **absent)
    for name, component in components.items():
        if hasattr(component, "save_pretrained") and not (home / name).exists():
            component.save_pretrained(home / name)
    write_index(home, made)
    return made
