"""Pipelines of videos."""

from pathlib import Path
from typing import Any

import torch

from tests.recorded_pipelines.components import COGVIDEOX_SCHEDULER, make_network, write
from tests.tiny_pipelines import autoencoder, clip_components, randomize, write_clip_tokenizer


def wan(folder: Path, patch: int = 1, **more: Any) -> Path:
    """Wan: two calls per step, classifier-free guidance. Latents [8, 2, 2, 2] for 5 frames of 16 by 16 pixels."""
    import diffusers

    network = randomize(make_network("wan", patch_size=(1, patch, patch)))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    parts = {"transformer": network, "vae": None, "scheduler": scheduler, "transformer_2": None}
    return write(folder, "WanPipeline", **{**parts, **more})


def wan_with_times_of_positions(folder: Path) -> Path:
    """Wan 2.2 with 5 billion weights: a time for each position, all of which are equal without a picture."""
    return wan(folder, patch=2, expand_timesteps=True)


def wan_with_two_networks(folder: Path) -> Path:
    """Wan 2.2: another network runs the steps from time 875 on."""
    noisy, quiet = (randomize(make_network("wan", patch_size=(1, 1, 1))) for _ in range(2))
    with torch.no_grad():
        for parameter in noisy.parameters():
            parameter *= 1.5
    return wan(folder, transformer=noisy, transformer_2=quiet, boundary_ratio=0.875)


def ltx(folder: Path) -> Path:
    """LTX: one call of two rows, sizes as plain numbers, a shift by the number of tokens."""
    import diffusers

    network = randomize(make_network("ltx"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
    return write(folder, "LTXPipeline", transformer=network, vae=None, scheduler=scheduler)


def cogvideox_transformer(channels: int) -> Any:
    return randomize(make_network("cogvideox", in_channels=channels))


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
    parts = {"transformer": cogvideox_transformer(8), "vae": randomize(vae), "scheduler": scheduler}
    return write(folder, "CogVideoXImageToVideoPipeline", **parts)


def allegro(folder: Path) -> Path:
    """Allegro: rotary positions as arguments."""
    import diffusers

    network = randomize(make_network("allegro"))
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    return write(folder, "AllegroPipeline", transformer=network, vae=None, scheduler=scheduler)


def mochi(folder: Path) -> Path:
    """Mochi: sigmas that are linear, then quadratic."""
    import diffusers

    network = randomize(make_network("mochi"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return write(folder, "MochiPipeline", transformer=network, vae=None, scheduler=scheduler)


def text_to_video(folder: Path) -> Path:
    """AnimateDiff's network: the text of a sample is repeated for each frame."""
    import diffusers

    files = write_clip_tokenizer(folder.with_name("vocabulary"))
    components = clip_components(files, make_network("text_to_video"))
    pipeline = diffusers.AnimateDiffPipeline(**components, motion_adapter=None)
    pipeline.save_pretrained(folder)
    return folder


def anyflow(folder: Path) -> Path:
    """AnyFlow: its network gets the time of a step and the time at which it ends."""
    import diffusers

    network = randomize(make_network("anyflow"))
    scheduler = diffusers.FlowMapEulerDiscreteScheduler(shift=5.0)
    return write(folder, "AnyFlowPipeline", transformer=network, vae=None, scheduler=scheduler)


def skyreels_forcing(folder: Path) -> Path:
    """SkyReels with diffusion forcing: each frame has a separate scheduler."""
    import diffusers

    network = randomize(make_network("skyreels"))
    given = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    scheduler = diffusers.UniPCMultistepScheduler(flow_shift=8.0, **given)
    parts = {"transformer": network, "vae": None, "scheduler": scheduler}
    return write(folder, "SkyReelsV2DiffusionForcingPipeline", **parts)


def ltx_image_to_video(folder: Path) -> Path:
    """LTX from a picture: the scheduler steps the frames after the first, and the network gets tokens of all."""
    import diffusers

    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    parts = {"transformer": randomize(make_network("ltx")), "vae": randomize(vae), "scheduler": scheduler}
    return write(folder, "LTXImageToVideoPipeline", **parts)


def latte(folder: Path) -> Path:
    """Latte: its network reads the number of tokens."""
    import diffusers

    parts = {"transformer": randomize(make_network("latte")), "vae": autoencoder()}
    return write(folder, "LattePipeline", scheduler=diffusers.DDIMScheduler(clip_sample=False), **parts)


def stable_video(folder: Path) -> Path:
    """Stable Video Diffusion: guidance grows along the frames, channels of the encoded picture come after x."""
    import diffusers
    import transformers

    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4, layers_per_block=1
    )
    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=56,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        timestep_type="continuous",
        steps_offset=1,
        use_karras_sigmas=True,
    )
    pipeline = diffusers.StableVideoDiffusionPipeline(
        unet=randomize(make_network("stable_video")),
        vae=randomize(vae),
        image_encoder=randomize(transformers.CLIPVisionModelWithProjection(config)),
        feature_extractor=transformers.CLIPImageProcessor(),
        scheduler=scheduler,
    )
    pipeline.save_pretrained(folder)
    return folder
