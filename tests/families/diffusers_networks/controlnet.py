"""A ControlNet (Zhang et al. 2023) with the UNet of Stable Diffusion: one denoiser that sees a picture."""

from pathlib import Path
from typing import Any

from tests.families.tiny import randomize, stable_diffusion_unet, v_scheduler
from tests.recorded_pipelines.components import write
from tests.tiny_pipelines import clip_components, write_clip_tokenizer

NAME = "ControlNetModel (diffusers folder)"
PLAN = "scheduler:2"
GUIDANCE = 2.0  # otherwise a calibrated body has the weight of its pipeline


def make(folder: Path) -> dict[str, Any]:
    from diffusers import ControlNetModel

    network = stable_diffusion_unet()
    control = randomize(ControlNetModel.from_unet(network, conditioning_embedding_out_channels=(4, 8)))
    parts = clip_components(write_clip_tokenizer(folder / "vocabulary", model_max_length=7), network)
    parts |= {"scheduler": v_scheduler(), "controlnet": control}
    absent = dict.fromkeys(("safety_checker", "feature_extractor"))
    home = write(folder / "model", "StableDiffusionControlNetPipeline", **parts, **absent)
    return {"source": str(home)}
