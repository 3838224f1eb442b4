"""What the pipelines of diffusers make of their scheduler, beside calling it with a number of steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewstep.plans.errors import UserError

PIPELINE = "_pipeline"  # where a bundle's scheduler config says which pipeline it came with
FLOW = "FlowMatchEulerDiscreteScheduler"  # the class that takes sigmas and a shift from its caller


@dataclass(frozen=True)
class Pipeline:
    """`changes` are fields of the config that it silently sets; `even`: it gives a flow its sigmas, 1 .. 1 / N, which
    are then shifted once; `patch`: pixels of x in a token along each axis, of which a dynamic shift takes the count;
    `shortens`: all steps run whatever the strength, which shortens the distillation's timesteps that they are of."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    even: bool = False
    patch: int | None = None
    shortens: bool = False


STABLE_DIFFUSION = Pipeline({"steps_offset": 1, "clip_sample": False})
STABLE_DIFFUSION_3 = Pipeline(patch=2)
LATENT_CONSISTENCY = Pipeline(shortens=True)
FLUX = Pipeline(even=True, patch=2)
PIPELINES: Mapping[str, Pipeline] = {
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionImg2ImgPipeline": STABLE_DIFFUSION,
    "StableDiffusionPAGPipeline": STABLE_DIFFUSION,
    "StableDiffusionInpaintPipeline": Pipeline({"steps_offset": 1, "skip_prk_steps": True}),
    "StableDiffusion3Pipeline": STABLE_DIFFUSION_3,
    "StableDiffusion3Img2ImgPipeline": STABLE_DIFFUSION_3,
    "LatentConsistencyModelPipeline": LATENT_CONSISTENCY,
    "LatentConsistencyModelImg2ImgPipeline": LATENT_CONSISTENCY,
    "FluxPipeline": FLUX,
    "FluxImg2ImgPipeline": FLUX,
    "FluxControlPipeline": FLUX,
    "FluxFillPipeline": FLUX,
}


def tokens(pipeline: Pipeline, x_shape: Sequence[int]) -> int | None:
    """How many tokens the pipeline's network makes of x [channels, height, width]; None where no shift asks for it."""
    if pipeline.patch is None:
        return None
    if len(x_shape) != 3:
        raise UserError(f"x_shape {tuple(x_shape)} of a pipeline of images", "give [channels, height, width]")
    return (x_shape[1] // pipeline.patch) * (x_shape[2] // pipeline.patch)
