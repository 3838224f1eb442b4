"""Pipelines of images."""

from pathlib import Path
from typing import Any

import torch

from tests.recorded_pipelines.components import COGVIDEOX_SCHEDULER, TEXT, make_network, write
from tests.tiny_pipelines import (
    WITHOUT_CHECKER,
    attention_unet,
    autoencoder,
    clip_components,
    qwen_tokenizer,
    randomize,
    write_clip_tokenizer,
)


def chroma(folder: Path) -> Path:
    """Chroma: packed tokens, time in [0, 1], a mask over text and picture."""
    import diffusers

    network = randomize(make_network("chroma"))
    parts = {"transformer": network, "vae": None, "scheduler": diffusers.FlowMatchEulerDiscreteScheduler()}
    return write(folder, "ChromaPipeline", **parts)


def chroma_image_to_image(folder: Path) -> Path:
    """Chroma from a picture, which its autoencoder encodes."""
    import diffusers

    path = chroma(folder.with_name("chroma"))
    network = diffusers.ChromaTransformer2DModel.from_pretrained(path / "transformer")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    vae = autoencoder(latent_channels=2, shift_factor=0.1)
    return write(folder, "ChromaImg2ImgPipeline", transformer=network, vae=vae, scheduler=scheduler)


def lumina2(folder: Path) -> Path:
    """Lumina 2: rescales the norm of the guided output."""
    import diffusers

    network = randomize(make_network("lumina2"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return write(folder, "Lumina2Pipeline", transformer=network, vae=None, scheduler=scheduler)


def lumina(folder: Path) -> Path:
    """Lumina: guides the first three of four channels."""
    import diffusers

    network = randomize(make_network("lumina"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return write(folder, "LuminaPipeline", transformer=network, vae=autoencoder(), scheduler=scheduler)


def bria(folder: Path) -> Path:
    """Bria: packed tokens of a picture, guidance in one call of two rows."""
    import diffusers

    network = randomize(make_network("bria"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    parts = {"transformer": network, "scheduler": scheduler, "vae": autoencoder(shift_factor=0.1)}
    return write(folder, "BriaPipeline", **parts, image_encoder=None, feature_extractor=None)


def cogview3(folder: Path) -> Path:
    """CogView3 Plus: latents of a picture, and sizes as numbers for each row."""
    import diffusers

    network = randomize(make_network("cogview3"))
    scheduler = diffusers.CogVideoXDDIMScheduler(**COGVIDEOX_SCHEDULER)
    parts = {"transformer": network, "scheduler": scheduler, "vae": autoencoder()}
    return write(folder, "CogView3PlusPipeline", **parts)


def qwen3() -> tuple[Any, Any]:
    """A text encoder of Qwen 3, and its tokenizer of single characters."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        hidden_size=TEXT,
        intermediate_size=TEXT,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=1000,
        max_position_embeddings=512,
    )
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return Qwen3ForCausalLM(config).eval(), tokenizer


def z_image(folder: Path) -> Path:
    """Z-Image: its network gets lists with a tensor for each row, and texts without padding."""
    import diffusers

    network = make_network("z_image")
    with torch.no_grad():  # these are not initialized
        network.x_pad_token.zero_()
        network.cap_pad_token.zero_()
    text, tokenizer = qwen3()
    parts = {"transformer": randomize(network), "vae": autoencoder(), "text_encoder": text, "tokenizer": tokenizer}
    return write(folder, "ZImagePipeline", scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), **parts)


def flux2_klein(folder: Path) -> Path:
    """FLUX.2 Klein: x is packed, and scaled by the mean and the variance that its autoencoder stores."""
    import diffusers

    torch.manual_seed(0)
    network = randomize(make_network("flux2_klein"))
    text, tokenizer = qwen3()
    vae = diffusers.AutoencoderKLFlux2(
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    vae.bn.running_mean.copy_(torch.tensor([0.5, -0.5, 1.0, 2.0]))
    vae.bn.running_var.copy_(torch.tensor([4.0, 9.0, 0.25, 1.0]))
    return write(
        folder,
        "Flux2KleinPipeline",
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        transformer=network,
    )


def qwen_image(folder: Path) -> Path:
    """Qwen-Image: guidance that keeps a norm, texts of any length, a list of sizes with an entry for each sample."""
    import diffusers
    import transformers

    network = randomize(make_network("qwen_image"))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1000000.0}
    text = {**sizes, "intermediate_size": 16, "vocab_size": 1000, "rope_parameters": rope}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    parts = {
        "transformer": network,
        "vae": None,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
        "text_encoder": transformers.Qwen2_5_VLForConditionalGeneration(config).eval(),
        "tokenizer": qwen_tokenizer(),
    }
    return write(folder, "QwenImagePipeline", **parts)


def perturbed_attention(folder: Path) -> Path:
    """Stable Diffusion with perturbed attention: the pipeline replaces attention processors during the call."""
    import diffusers

    files = write_clip_tokenizer(folder.with_name("vocabulary"))
    pipeline = diffusers.StableDiffusionPAGPipeline(**clip_components(files, attention_unet()), **WITHOUT_CHECKER)
    pipeline.save_pretrained(folder)
    return folder
