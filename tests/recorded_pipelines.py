"""Folders of diffusers pipelines that export records, with tiny networks and random weights."""

from pathlib import Path
from typing import Any

import torch

from tests.pipelines import (
    SCHEDULER,
    autoencoder,
    byte_characters,
    clip,
    randomized,
    t5,
    t5_tokenizer,
    write_clip_tokenizer,
)

TEXT = 16  # width of the text encoder
TOKENS = 12


def write(folder: Path, kind: str, **components: Any) -> Path:
    """Write the folder of a pipeline. Components that are not given are a T5, its tokenizer, and an autoencoder."""
    import diffusers

    torch.manual_seed(0)
    texts = {"text_encoder": t5(TEXT), "tokenizer": t5_tokenizer(TOKENS)}
    pipeline = getattr(diffusers, kind)(**{**texts, **components})
    pipeline.save_pretrained(folder)
    return folder


def wan(folder: Path, patch: int = 1, **more: Any) -> Path:
    """Wan: two calls per step, classifier-free guidance. Latents [8, 2, 2, 2] for 5 frames of 16 by 16 pixels."""
    import diffusers

    network = diffusers.WanTransformer3DModel(
        patch_size=(1, patch, patch),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=8,
        out_channels=8,
        text_dim=TEXT,
        freq_dim=32,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=16,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    parts = {"transformer": randomized(network), "vae": None, "scheduler": scheduler, "transformer_2": None}
    return write(folder, "WanPipeline", **{**parts, **more})


def wan_with_times_of_positions(folder: Path) -> Path:
    """Wan 2.2 with 5 billion weights: a time for each position, all of which are equal without a picture."""
    return wan(folder, patch=2, expand_timesteps=True)


def ltx(folder: Path) -> Path:
    """LTX: one call of two rows, sizes as plain numbers, a shift by the number of tokens."""
    import diffusers

    network = diffusers.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=TEXT,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
    return write(folder, "LTXPipeline", transformer=randomized(network), vae=None, scheduler=scheduler)


def cogvideox_transformer(channels: int) -> Any:
    import diffusers

    network = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=channels,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=TEXT,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=TOKENS,
    )
    return randomized(network)


COGVIDEOX_SCHEDULER = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def cogvideox(folder: Path) -> Path:
    """CogVideoX: frames before channels, v prediction, integer times."""
    import diffusers

    scheduler = diffusers.CogVideoXDDIMScheduler(**COGVIDEOX_SCHEDULER)
    return write(folder, "CogVideoXPipeline", transformer=cogvideox_transformer(4), vae=None, scheduler=scheduler)


def cogvideox_image_to_video(folder: Path) -> Path:
    """CogVideoX from a picture: channels of its encoded frames come after x."""
    import diffusers

    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        scaling_factor=0.7,
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(**COGVIDEOX_SCHEDULER)
    parts = {"transformer": cogvideox_transformer(8), "vae": randomized(vae), "scheduler": scheduler}
    return write(folder, "CogVideoXImageToVideoPipeline", **parts)


def chroma(folder: Path) -> Path:
    """Chroma: packed tokens, time in [0, 1], a mask over text and picture."""
    import diffusers

    network = diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        axes_dims_rope=(2, 2, 4),
        approximator_hidden_dim=8,
        approximator_layers=1,
        approximator_num_channels=8,
    )
    parts = {"transformer": randomized(network), "vae": None, "scheduler": diffusers.FlowMatchEulerDiscreteScheduler()}
    return write(folder, "ChromaPipeline", **parts)


def allegro(folder: Path) -> Path:
    """Allegro: rotary positions as arguments."""
    import diffusers

    network = diffusers.AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=4,
        sample_height=4,
        sample_frames=4,
        caption_channels=TEXT,
    )
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    return write(folder, "AllegroPipeline", transformer=randomized(network), vae=None, scheduler=scheduler)


def mochi(folder: Path) -> Path:
    """Mochi: sigmas that are linear, then quadratic."""
    import diffusers

    network = diffusers.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        out_channels=None,
        qk_norm="rms_norm",
        text_embed_dim=TEXT,
        time_embed_dim=4,
        activation_fn="swiglu",
        max_sequence_length=TOKENS,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return write(folder, "MochiPipeline", transformer=randomized(network), vae=None, scheduler=scheduler)


def chroma_image_to_image(folder: Path) -> Path:
    """Chroma from a picture, which its autoencoder encodes."""
    import diffusers

    path = chroma(folder.with_name("chroma"))
    network = diffusers.ChromaTransformer2DModel.from_pretrained(path / "transformer")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    vae = autoencoder(latent_channels=2, shift_factor=0.1)
    return write(folder, "ChromaImg2ImgPipeline", transformer=network, vae=vae, scheduler=scheduler)


def text_to_video(folder: Path) -> Path:
    """AnimateDiff's network: the text of a sample recurs for each frame."""
    import diffusers
    import transformers

    files = write_clip_tokenizer(folder.with_name("vocabulary"))
    unet = diffusers.UNetMotionModel(
        sample_size=8,
        layers_per_block=1,
        norm_num_groups=4,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        num_attention_heads=2,
        cross_attention_dim=12,
        motion_num_attention_heads=2,
    )
    pipeline = diffusers.AnimateDiffPipeline(
        vae=autoencoder(),
        text_encoder=clip(files),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(files),
        unet=randomized(unet),
        motion_adapter=None,
        scheduler=diffusers.DDIMScheduler(**SCHEDULER),
    )
    pipeline.save_pretrained(folder)
    return folder


def lumina2(folder: Path) -> Path:
    """Lumina 2: rescales the norm of the guided output."""
    import diffusers

    network = diffusers.Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=2,
        norm_eps=1e-5,
        scaling_factor=1.0,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(128, 128, 128),
        cap_feat_dim=TEXT,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return write(folder, "Lumina2Pipeline", transformer=randomized(network), vae=None, scheduler=scheduler)


def lumina(folder: Path) -> Path:
    """Lumina: guides the first three of four channels."""
    import diffusers

    network = diffusers.LuminaNextDiT2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=4,
        num_layers=1,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        ffn_dim_multiplier=None,
        norm_eps=1e-5,
        learn_sigma=True,
        qk_norm=True,
        cross_attention_dim=TEXT,
        scaling_factor=1.0,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return write(folder, "LuminaPipeline", transformer=randomized(network), vae=autoencoder(), scheduler=scheduler)


def bria(folder: Path) -> Path:
    """Bria: packed tokens of a picture, guidance in one call of two rows."""
    import diffusers

    network = diffusers.BriaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=None,
        axes_dims_rope=[0, 4, 4],
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    parts = {"transformer": randomized(network), "scheduler": scheduler, "vae": autoencoder(shift_factor=0.1)}
    return write(folder, "BriaPipeline", **parts, image_encoder=None, feature_extractor=None)


def cogview3(folder: Path) -> Path:
    """CogView3 Plus: latents of a picture, and sizes as numbers for each row."""
    import diffusers

    network = diffusers.CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=TEXT,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(**COGVIDEOX_SCHEDULER)
    parts = {"transformer": randomized(network), "scheduler": scheduler, "vae": autoencoder()}
    return write(folder, "CogView3PlusPipeline", **parts)


def flux2_klein(folder: Path) -> Path:
    """FLUX.2 Klein: x is packed, and scaled by the mean and the variance that its autoencoder stores."""
    import diffusers
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    network = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        timestep_guidance_channels=256,
        axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=False,
    )
    text = Qwen3Config(
        hidden_size=TEXT,
        intermediate_size=TEXT,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=1000,
        max_position_embeddings=512,
    )
    vocabulary = {token: number for number, token in enumerate([*byte_characters(), "<|endoftext|>"])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=1024)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
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
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(text),
        tokenizer=tokenizer,
        transformer=randomized(network),
    )


def qwen_image(folder: Path) -> Path:
    """Qwen-Image: guidance that keeps a norm, texts of any length, a list of sizes with an entry for each sample."""
    import diffusers
    import transformers

    network = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1000000.0}
    text = {**sizes, "intermediate_size": 16, "vocab_size": 1000, "rope_parameters": rope}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    vocabulary = {token: number for number, token in enumerate([*byte_characters(), "<|endoftext|>"])}
    parts = {
        "transformer": randomized(network),
        "vae": None,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
        "text_encoder": transformers.Qwen2_5_VLForConditionalGeneration(config).eval(),
        "tokenizer": transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=1024),
    }
    return write(folder, "QwenImagePipeline", **parts)


def perturbed_attention(folder: Path) -> Path:
    """Stable Diffusion with perturbed attention: other attention processors during the call."""
    import diffusers
    import transformers

    files = write_clip_tokenizer(folder.with_name("vocabulary"))
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        norm_num_groups=4,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        attention_head_dim=4,
        cross_attention_dim=12,
    )
    pipeline = diffusers.StableDiffusionPAGPipeline(
        vae=autoencoder(),
        text_encoder=clip(files),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(files),
        unet=randomized(unet),
        scheduler=diffusers.DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


CALLS: dict[str, dict[str, Any]] = {
    "flux2_klein": {"height": 16, "width": 16, "max_sequence_length": 64, "text_encoder_out_layers": (1,)},
    "wan": {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": TOKENS},
    "wan_with_times_of_positions": {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": TOKENS},
    "ltx": {"height": 64, "width": 64, "num_frames": 9, "max_sequence_length": TOKENS},
    "cogvideox": {"height": 16, "width": 16, "num_frames": 9, "max_sequence_length": TOKENS},
    "cogvideox_image_to_video": {"height": 16, "width": 16, "num_frames": 9, "max_sequence_length": TOKENS},
    "chroma": {"height": 64, "width": 64, "max_sequence_length": TOKENS},
    "lumina2": {"height": 32, "width": 32, "max_sequence_length": 40, "system_prompt": "a"},
    "bria": {"height": 16, "width": 16, "max_sequence_length": TOKENS},
    "cogview3": {"height": 16, "width": 16, "max_sequence_length": TOKENS},
    "lumina": {"height": 16, "width": 16, "max_sequence_length": TOKENS},
    "qwen_image": {"height": 32, "width": 32, "max_sequence_length": 224},
    "perturbed_attention": {},
    "mochi": {"height": 16, "width": 16, "num_frames": 7, "max_sequence_length": TOKENS},
    "chroma_image_to_image": {"height": 16, "width": 16, "max_sequence_length": TOKENS},
    "text_to_video": {"height": 16, "width": 16, "num_frames": 4},
    "allegro": {"height": 32, "width": 32, "num_frames": 8, "max_sequence_length": TOKENS},
}
