"""The work of diffusers' pipelines on their scheduler, apart from a call with a number of steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewstep.plans.errors import UserError

PIPELINE = "_pipeline"  # where a bundle's scheduler config says which pipeline it came with
FLOW = "FlowMatchEulerDiscreteScheduler"  # the class that takes sigmas and a shift from its caller


@dataclass(frozen=True)
class PipelineRules:
    """The rules of a pipeline.

    changes: fields of the config that the pipeline silently sets.
    even: the pipeline gives a flow its sigmas, 1 .. 1 / N, which are then shifted once.
    patch: pixels of x in a token along each axis. A dynamic shift follows from the number of tokens.
    shortens: all steps run whatever the strength, which shortens the distillation's timesteps.
    rounds_up: a strength of N steps runs N - int(N - N x strength) of them, in the place of int(N x strength).
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    even: bool = False
    patch: int | None = None
    shortens: bool = False
    rounds_up: bool = False


STABLE_DIFFUSION = PipelineRules({"steps_offset": 1, "clip_sample": False})
STABLE_DIFFUSION_3 = PipelineRules(patch=2, rounds_up=True)
LATENT_CONSISTENCY = PipelineRules(shortens=True)
FLUX = PipelineRules(even=True, patch=2, rounds_up=True)
PIPELINES: Mapping[str, PipelineRules] = {
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionImg2ImgPipeline": STABLE_DIFFUSION,
    "StableDiffusionPAGPipeline": STABLE_DIFFUSION,
    "StableDiffusionInpaintPipeline": PipelineRules({"steps_offset": 1, "skip_prk_steps": True}),
    "StableDiffusion3Pipeline": STABLE_DIFFUSION_3,
    "StableDiffusion3Img2ImgPipeline": STABLE_DIFFUSION_3,
    "LatentConsistencyModelPipeline": LATENT_CONSISTENCY,
    "LatentConsistencyModelImg2ImgPipeline": LATENT_CONSISTENCY,
    "FluxPipeline": FLUX,
    "FluxImg2ImgPipeline": FLUX,
    "FluxControlPipeline": FLUX,
    "FluxFillPipeline": FLUX,
}


def tokens(pipeline: PipelineRules, x_shape: Sequence[int]) -> int | None:
    """The number of tokens that the network makes of x [channels, height, width]; None where no shift asks for it."""
    if pipeline.patch is None:
        return None
    if len(x_shape) != 3:
        raise UserError(f"x_shape {tuple(x_shape)} of a pipeline of images", "give [channels, height, width]")
    return (x_shape[1] // pipeline.patch) * (x_shape[2] // pipeline.patch)
