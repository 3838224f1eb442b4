"""What pipelines of diffusers do with their scheduler, besides passing a number of steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewstep.plans.errors import UserError

PIPELINE = "_pipeline"  # the field of a bundle's scheduler config that names its pipeline
RECORDED = "_recorded"  # the field with what a recorded pipeline passes to its scheduler (`recorded.py`)
UNHELD_START = "_unheld_start"  # the field that is true if the pipeline keeps a part of x from its second step on
FLOW = "FlowMatchEulerDiscreteScheduler"
TAKE_SIGMAS = (FLOW, "FlowMatchLCMScheduler")  # the classes that take sigmas and a shift from their caller


@dataclass(frozen=True)
class PipelineRules:
    """The rules of a pipeline.

    changes: fields of the config that the pipeline silently sets.
    even: the pipeline passes the sigmas 1 .. 1 / N of a flow, which are then shifted once.
    own_flow_sigmas: the pipeline passes no sigmas to a scheduler with `use_flow_sigmas`.
    patch: pixels of x per token along each axis. A dynamic shift follows from the number of tokens.
    max_shift: the maximum of a dynamic shift, if the config has none.
    shortens: all steps run, whatever the strength. The strength shortens the range of the distillation's timesteps
        instead.
    rounds_up: of N steps, a strength runs N - int(N - N x strength) instead of int(N x strength).
    passes_eta: the pipeline passes its eta, 0 by default, to a scheduler that takes one.
    unit_noise: the pipeline begins with noise of deviation 1, whatever its scheduler asks for. It is not set for those
        whose only schedulers are flows, which ask for 1.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    even: bool = False
    own_flow_sigmas: bool = False
    patch: int | None = None
    max_shift: float = 1.15
    shortens: bool = False
    rounds_up: bool = False
    passes_eta: bool = False
    unit_noise: bool = False


PLAIN = PipelineRules()  # such a pipeline passes the number of steps; with a strength, int(N x strength) steps run
UNIT_NOISE = PipelineRules(unit_noise=True)
WITH_ETA = PipelineRules(passes_eta=True)
UNIT_NOISE_WITH_ETA = PipelineRules(passes_eta=True, unit_noise=True)
STABLE_DIFFUSION = PipelineRules({"steps_offset": 1, "clip_sample": False}, passes_eta=True)
STABLE_DIFFUSION_3 = PipelineRules(patch=2, max_shift=1.16, rounds_up=True)
WITHOUT_MU = PipelineRules(rounds_up=True)  # pipelines of Stable Diffusion 3 that pass no mu
LATENT_CONSISTENCY = PipelineRules(shortens=True)
FLUX = PipelineRules(even=True, own_flow_sigmas=True, patch=2, rounds_up=True)
EVEN = PipelineRules(even=True, patch=2, rounds_up=True)  # other pipelines of FLUX, and those of Qwen-Image
PIPELINES: Mapping[str, PipelineRules] = {  # from the source of each class in diffusers 0.42.1
    "DDIMPipeline": PipelineRules({"_class_name": "DDIMScheduler"}),
    "PNDMPipeline": PipelineRules({"_class_name": "PNDMScheduler"}),
    "StableDiffusionInpaintPipeline": PipelineRules({"steps_offset": 1, "skip_prk_steps": True}, passes_eta=True),
    "FluxPipeline": FLUX,
    **dict.fromkeys(
        (
            "AltDiffusionImg2ImgPipeline",
            "AltDiffusionPipeline",
            "StableDiffusionImg2ImgPipeline",
            "StableDiffusionInpaintPipelineLegacy",
            "StableDiffusionPAGImg2ImgPipeline",
            "StableDiffusionPAGInpaintPipeline",
            "StableDiffusionPAGPipeline",
            "StableDiffusionPipeline",
            "StableDiffusionPipelineSafe",
        ),
        STABLE_DIFFUSION,
    ),
    **dict.fromkeys(
        ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline", "StableDiffusion3Pipeline"),
        STABLE_DIFFUSION_3,
    ),
    **dict.fromkeys(
        (
            "StableDiffusion3ControlNetInpaintingPipeline",
            "StableDiffusion3ControlNetPipeline",
            "StableDiffusion3PAGImg2ImgPipeline",
            "StableDiffusion3PAGPipeline",
        ),
        WITHOUT_MU,
    ),
    **dict.fromkeys(("LatentConsistencyModelImg2ImgPipeline", "LatentConsistencyModelPipeline"), LATENT_CONSISTENCY),
    **dict.fromkeys(
        (
            "FluxControlImg2ImgPipeline",
            "FluxControlInpaintPipeline",
            "FluxControlNetImg2ImgPipeline",
            "FluxControlNetInpaintPipeline",
            "FluxControlNetPipeline",
            "FluxControlPipeline",
            "FluxFillPipeline",
            "FluxImg2ImgPipeline",
            "FluxInpaintPipeline",
            "FluxKontextInpaintPipeline",
            "FluxKontextPipeline",
            "QwenImageControlNetInpaintPipeline",
            "QwenImageControlNetPipeline",
            "QwenImageEditInpaintPipeline",
            "QwenImageEditPipeline",
            "QwenImageEditPlusPipeline",
            "QwenImageImg2ImgPipeline",
            "QwenImageInpaintPipeline",
            "QwenImagePipeline",
        ),
        EVEN,
    ),
    **dict.fromkeys(
        (
            "AuraFlowPipeline",
            "DanceDiffusionPipeline",
            "DDPMPipeline",
            "DiTPipeline",
            "MarigoldDepthPipeline",
            "MarigoldIntrinsicsPipeline",
            "MarigoldNormalsPipeline",
        ),
        UNIT_NOISE,
    ),
    **dict.fromkeys(
        (
            "LDMTextToImagePipeline",
            "SanaControlNetPipeline",
            "SanaPAGPipeline",
            "SanaPipeline",
        ),
        UNIT_NOISE_WITH_ETA,
    ),
    **dict.fromkeys(
        (
            "ConsistencyModelPipeline",
            "KandinskyV22CombinedPipeline",
            "KandinskyV22ControlnetImg2ImgPipeline",
            "KandinskyV22ControlnetPipeline",
            "KandinskyV22Img2ImgCombinedPipeline",
            "KandinskyV22Img2ImgPipeline",
            "KandinskyV22InpaintCombinedPipeline",
            "KandinskyV22InpaintPipeline",
            "KandinskyV22Pipeline",
        ),
        PLAIN,
    ),
    **dict.fromkeys(
        (
            "AudioLDMPipeline",
            "HunyuanDiTControlNetPipeline",
            "HunyuanDiTPAGPipeline",
            "HunyuanDiTPipeline",
            "IFImg2ImgPipeline",
            "IFImg2ImgSuperResolutionPipeline",
            "IFInpaintingPipeline",
            "IFInpaintingSuperResolutionPipeline",
            "IFPipeline",
            "IFSuperResolutionPipeline",
            "KolorsImg2ImgPipeline",
            "KolorsPAGPipeline",
            "KolorsPipeline",
            "LDMPipeline",
            "LDMSuperResolutionPipeline",
            "MusicLDMPipeline",
            "PaintByExamplePipeline",
            "PixArtAlphaPipeline",
            "PixArtSigmaPAGPipeline",
            "PixArtSigmaPipeline",
            "StableDiffusionAdapterPipeline",
            "StableDiffusionControlNetImg2ImgPipeline",
            "StableDiffusionControlNetInpaintPipeline",
            "StableDiffusionControlNetPAGInpaintPipeline",
            "StableDiffusionControlNetPAGPipeline",
            "StableDiffusionControlNetPipeline",
            "StableDiffusionDepth2ImgPipeline",
            "StableDiffusionImageVariationPipeline",
            "StableDiffusionInstructPix2PixPipeline",
            "StableDiffusionLDM3DPipeline",
            "StableDiffusionUpscalePipeline",
            "StableDiffusionXLAdapterPipeline",
            "StableDiffusionXLControlNetImg2ImgPipeline",
            "StableDiffusionXLControlNetInpaintPipeline",
            "StableDiffusionXLControlNetPAGImg2ImgPipeline",
            "StableDiffusionXLControlNetPAGPipeline",
            "StableDiffusionXLControlNetPipeline",
            "StableDiffusionXLImg2ImgPipeline",
            "StableDiffusionXLInpaintPipeline",
            "StableDiffusionXLInstructPix2PixPipeline",
            "StableDiffusionXLPAGImg2ImgPipeline",
            "StableDiffusionXLPAGInpaintPipeline",
            "StableDiffusionXLPAGPipeline",
            "StableDiffusionXLPipeline",
            "StableUnCLIPImg2ImgPipeline",
            "StableUnCLIPPipeline",
        ),
        WITH_ETA,
    ),
}


def token_count(pipeline: PipelineRules, x_shape: Sequence[int]) -> int | None:
    """Return the number of tokens of x [channels, height, width], or None if the pipeline has no dynamic shift."""
    if pipeline.patch is None:
        return None
    if len(x_shape) != 3:
        raise UserError(f"x_shape {tuple(x_shape)} is not that of an image", "give [channels, height, width]")
    return (x_shape[1] // pipeline.patch) * (x_shape[2] // pipeline.patch)


def dynamic_mu(pipeline: PipelineRules, fields: Mapping[str, Any], count: int) -> float:
    """Return the mu of a dynamic shift that a pipeline computes from the number of tokens and the stored config."""
    few, many = fields.get("base_image_seq_len", 256), fields.get("max_image_seq_len", 4096)
    least, most = fields.get("base_shift", 0.5), fields.get("max_shift", pipeline.max_shift)
    if many == few:
        raise UserError(f"max_image_seq_len {many!r} equals base_image_seq_len", "correct the file")
    return float(least + (most - least) * (count - few) / (many - few))
