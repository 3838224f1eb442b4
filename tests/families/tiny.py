"""Folders of diffusers with tiny networks and random weights."""

from pathlib import Path
from typing import Any

from tests.tiny_pipelines import WITHOUT_CHECKER, clip_components, write_clip_tokenizer

UNET: dict[str, Any] = {
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "attention_head_dim": 8,
}


def stable_diffusion_unet() -> Any:
    """A UNet of Stable Diffusion."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **UNET,
    )


def randomize(network: Any) -> Any:
    """Set weights of a trained network's size, none of them zero or one, which a pass would drop."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(mean=float(name.endswith("weight")), std=0.1)
    return network.eval()


def stable_diffusion_folder(
    folder: Path, network: Any, scheduler: Any = None, pipeline: str = "StableDiffusionPipeline", **more: Any
) -> str:
    """Write the folder of a pipeline with a UNet of Stable Diffusion, a CLIP and an autoencoder. Return its path.

    `more` are further components, such as a ControlNet.
    """
    import diffusers

    files = write_clip_tokenizer(folder / "vocabulary")
    parts = {**clip_components(files, network), "unet": randomize(network), "scheduler": scheduler or v_scheduler()}
    getattr(diffusers, pipeline)(**parts, **WITHOUT_CHECKER, **more).save_pretrained(folder / "model")
    return str(folder / "model")


def unconditional_folder(folder: Path, network: Any, scheduler: Any = None, pipeline: str = "DDIMPipeline") -> str:
    """Write the folder of a pipeline with a UNet2DModel alone. Return its path."""
    import diffusers

    parts = {"unet": randomize(network), "scheduler": scheduler or v_scheduler()}
    getattr(diffusers, pipeline)(**parts).save_pretrained(folder / "model")
    return str(folder / "model")


def v_scheduler() -> Any:
    """Return a scheduler of networks that predict v. An epsilon of random weights would be divided by an alpha near
    0.
    """
    import diffusers

    return diffusers.DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False)
