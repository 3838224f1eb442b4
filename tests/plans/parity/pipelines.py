"""Pipelines of FLUX and Stable Diffusion 3 as diffusers runs them, with a network that records its times."""

import inspect
from functools import cache
from typing import Any

PIXELS = 128  # of a picture
X_SHAPE = (16, PIXELS // 8, PIXELS // 8)
WIDTH = 32  # of encoded texts


@cache
def autoencoder() -> Any:
    """Return an autoencoder with latents of 16 channels, 8 times smaller than the picture."""
    import diffusers

    return diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8] * 4,
        latent_channels=16,
        norm_num_groups=4,
        shift_factor=0.1,
        scaling_factor=0.3,
    ).eval()


@cache
def network(family: str, channels: int) -> Any:
    """Return a network of the family with these channels and random weights."""
    import diffusers

    from tests.tiny_pipelines import SMALL, flux_transformer

    if family == "StableDiffusion3":
        return diffusers.SD3Transformer2DModel(
            sample_size=16,
            joint_attention_dim=WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=WIDTH,
            pos_embed_max_size=16,
            **SMALL,
        ).eval()
    return flux_transformer(channels, WIDTH, WIDTH, out_channels=64).eval()


def network_times(name: str, scheduler: Any, steps: int, strength: float | None) -> list[float]:
    """Return the timesteps of [0, 1000] that a pipeline passes to its network, for random pictures and texts."""
    import diffusers
    import torch

    made = getattr(diffusers, name)
    family = "Flux" if name.startswith("Flux") else "StableDiffusion3"
    channels = 384 if "Fill" in name else 128 if "Control" in name else 64
    denoiser = network(family, channels)
    wanted = inspect.signature(made.__init__).parameters
    components = {"scheduler": scheduler, "vae": autoencoder(), "transformer": denoiser}
    pipeline = made(**{each: components.get(each) for each in wanted if each != "self"})
    pipeline.set_progress_bar_config(disable=True)
    picture = torch.rand(1, 3, PIXELS, PIXELS)
    given: dict[str, Any] = {
        "prompt_embeds": torch.randn(1, 5, WIDTH),
        "pooled_prompt_embeds": torch.randn(1, WIDTH),
        "image": picture,
        "control_image": picture,
        "mask_image": torch.ones(1, 1, PIXELS, PIXELS),
        "height": PIXELS,
        "width": PIXELS,
        "num_inference_steps": steps,
        "strength": strength,
        "output_type": "latent",
    }
    if family == "StableDiffusion3":
        given["guidance_scale"] = 1.0
    if name == "FluxKontextPipeline":
        given |= {"_auto_resize": False, "max_area": PIXELS**2}
    takes = inspect.signature(made.__call__).parameters
    times: list[float] = []

    def note(_: Any, arguments: Any, named: dict[str, Any]) -> None:
        times.append(float(named["timestep"][0]) * (1000.0 if family == "Flux" else 1.0))

    hook = denoiser.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            pipeline(**{each: value for each, value in given.items() if each in takes and value is not None})
    finally:
        hook.remove()
    return times
