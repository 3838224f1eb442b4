"""What pipelines of diffusers do with their scheduler, besides passing a number of steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import isfinite
from typing import Any

import msgspec

from fewstep.plans.configs.config import is_number
from fewstep.plans.errors import UserError
from fewstep.plans.shaping import GuideChannels, GuideFrames, MatchNorm, Project, shaping_problem

PIPELINE = "_pipeline"  # the field of a bundle's scheduler config that names its pipeline
RECORDED = "_recorded"  # the field with what a recorded pipeline passes to its scheduler
UNHELD_START = "_unheld_start"  # the field that is true if the pipeline keeps a part of x from its second step on
STORED_STEPS = "steps"  # the field of a recording with steps that no rule gives (`recorded_steps.py`)
GuidedShaping = MatchNorm | GuideChannels | GuideFrames | Project  # of a recorded pipeline
NUMBERS = ("eta", "guided_frames")  # fields of a recording that are one number
CORRECT = "export the pipeline again"  # the fix of a field that `fewstep export` did not write
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
    unheld_start: if the pipeline keeps a part of an image, it sets this part of x after each step, and begins with
        noise everywhere (unless it has a strength below 1).
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
    unheld_start: bool = False
    unit_noise: bool = False


PLAIN = PipelineRules()  # such a pipeline passes the number of steps; with a strength, int(N x strength) steps run
UNIT_NOISE = PipelineRules(unit_noise=True)
WITH_ETA = PipelineRules(passes_eta=True)
UNIT_NOISE_WITH_ETA = PipelineRules(passes_eta=True, unit_noise=True)
STABLE_DIFFUSION = PipelineRules({"steps_offset": 1, "clip_sample": False}, passes_eta=True)
STABLE_DIFFUSION_3 = PipelineRules(patch=2, max_shift=1.16, rounds_up=True)
WITHOUT_MU = PipelineRules(rounds_up=True)  # pipelines of Stable Diffusion 3 that pass no mu
INPAINTING_WITH_ETA = PipelineRules(passes_eta=True, unheld_start=True)
LATENT_CONSISTENCY = PipelineRules(shortens=True)
FLUX = PipelineRules(even=True, own_flow_sigmas=True, patch=2, rounds_up=True)
EVEN = PipelineRules(even=True, patch=2, rounds_up=True)  # other pipelines of FLUX, and those of Qwen-Image
PIPELINES: Mapping[str, PipelineRules] = {  # from the source of each class in diffusers 0.42.1
    "DDIMPipeline": PipelineRules({"_class_name": "DDIMScheduler"}),
    "PNDMPipeline": PipelineRules({"_class_name": "PNDMScheduler"}),
    "StableDiffusionInpaintPipeline": PipelineRules(
        {"steps_offset": 1, "skip_prk_steps": True}, passes_eta=True, unheld_start=True
    ),
    "StableDiffusionPAGInpaintPipeline": replace(STABLE_DIFFUSION, unheld_start=True),
    **dict.fromkeys(
        ("KandinskyV22InpaintCombinedPipeline", "KandinskyV22InpaintPipeline"), PipelineRules(unheld_start=True)
    ),
    **dict.fromkeys(
        (
            "StableDiffusionControlNetInpaintPipeline",
            "StableDiffusionControlNetPAGInpaintPipeline",
            "StableDiffusionXLControlNetInpaintPipeline",
            "StableDiffusionXLInpaintPipeline",
            "StableDiffusionXLPAGInpaintPipeline",
        ),
        INPAINTING_WITH_ETA,
    ),
    "FluxPipeline": FLUX,
    **dict.fromkeys(
        (
            "AltDiffusionImg2ImgPipeline",
            "AltDiffusionPipeline",
            "StableDiffusionImg2ImgPipeline",
            "StableDiffusionInpaintPipelineLegacy",
            "StableDiffusionPAGImg2ImgPipeline",
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
            "StableDiffusionControlNetPAGPipeline",
            "StableDiffusionControlNetPipeline",
            "StableDiffusionDepth2ImgPipeline",
            "StableDiffusionImageVariationPipeline",
            "StableDiffusionInstructPix2PixPipeline",
            "StableDiffusionLDM3DPipeline",
            "StableDiffusionUpscalePipeline",
            "StableDiffusionXLAdapterPipeline",
            "StableDiffusionXLControlNetImg2ImgPipeline",
            "StableDiffusionXLControlNetPAGImg2ImgPipeline",
            "StableDiffusionXLControlNetPAGPipeline",
            "StableDiffusionXLControlNetPipeline",
            "StableDiffusionXLImg2ImgPipeline",
            "StableDiffusionXLInstructPix2PixPipeline",
            "StableDiffusionXLPAGImg2ImgPipeline",
            "StableDiffusionXLPAGPipeline",
            "StableDiffusionXLPipeline",
            "StableUnCLIPImg2ImgPipeline",
            "StableUnCLIPPipeline",
        ),
        WITH_ETA,
    ),
}


@dataclass(frozen=True)
class RecordedTimes:
    """What a recorded pipeline passes to its scheduler for a number of steps.

    even: whether it passes the sigmas 1 .. 1 / N.
    sigmas: other sigmas that it passes, or none.
    arguments: the argument mu, if it passes one.
    eta: the argument of the scheduler's steps; None if the pipeline passes none.
    shaping: the shaping of the network's guided output, or None.
    """

    even: bool
    arguments: Mapping[str, float]
    sigmas: tuple[float, ...] | None = None
    eta: float | None = None
    shaping: GuidedShaping | None = None


def read_recorded(fields: Mapping[str, Any], steps: int) -> RecordedTimes | None:
    """Return what a recorded pipeline passes to its scheduler for `steps` steps, or None if the config has no
    recording.

    Its field `mu`, [a, b], means a + b N, `eta` is an argument of the scheduler's steps, `norm_axis` that of a
    `MatchNorm`, `guided_channels` the count of `GuideChannels`, and `sigmas` lists those for 1 step, 2 steps and so on.
    Raises UserError if `sigmas` has no entry for this number of steps.
    """
    if (problem := recording_problem(fields)) is not None:
        raise UserError(f"scheduler config: {problem}", CORRECT)
    rules = fields.get(RECORDED)
    if rules is None:
        return None
    even, mu, eta, listed = (rules.get(name) for name in ("even", "mu", "eta", "sigmas"))
    arguments = {} if mu is None else {"mu": float(mu[0]) + float(mu[1]) * steps}
    eta = None if eta is None else float(eta)
    shaping = read_change(fields)
    if listed is None:
        return RecordedTimes(bool(even), arguments, eta=eta, shaping=shaping)
    sigmas = tuple(map(float, listed[steps - 1])) if steps <= len(listed) else ()
    if not sigmas:
        counts = [number for number, each in enumerate(listed, 1) if each]
        fix = f"give another number, from {counts[0]} to {counts[-1]}"
        raise UserError(f"the recorded pipeline has no sigmas for {steps} steps", fix)
    return RecordedTimes(False, arguments, sigmas, eta, shaping)


def recording_problem(fields: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a config's recording or with its pipeline's name; None if both can be read."""
    if not isinstance(fields.get(PIPELINE), str | None):
        return f"{PIPELINE} {fields[PIPELINE]!r:.80} is not a name"
    if not isinstance(fields.get(UNHELD_START), bool | None):
        return f"{UNHELD_START} {fields[UNHELD_START]!r:.80} is not true or false"
    rules = fields.get(RECORDED)
    if rules is None:
        return None
    if not isinstance(rules, Mapping):
        return f"{RECORDED} {rules!r:.80} is not an object"
    mu, listed = rules.get("mu"), rules.get("sigmas")
    is_list = isinstance(listed, list | tuple)
    problems = {
        "even": None if isinstance(rules.get("even"), bool | None) else "true or false",
        "mu": None if mu is None or (_are_numbers(mu) and len(mu) == 2) else "two numbers",
        **{name: None if rules.get(name) is None or _are_numbers([rules[name]]) else "a number" for name in NUMBERS},
        **{
            name: None if type(rules.get(name)) in (int, type(None)) else "a whole number"
            for name in ("norm_axis", "guided_channels")
        },
        "projection": None if _is_projection(rules.get("projection")) else "the fields of Project",
        "sigmas": None
        if listed is None or (is_list and any(listed) and all(map(_are_sigmas, listed, count(1))))
        else "a list of sigmas for 1 step, for 2 steps and so on",
    }
    wrong = ((name, wanted) for name, wanted in problems.items() if wanted is not None)
    return next((f"{RECORDED}.{name} {rules[name]!r:.80} is not {wanted}" for name, wanted in wrong), None)


def _are_sigmas(values: Any, steps: int) -> bool:
    """True for the sigmas of a number of steps, or an empty list."""
    return _are_numbers(values) and len(values) in (0, steps) and all(each >= 0 for each in values)


def _are_numbers(values: Any) -> bool:
    """Return True for a list of finite numbers."""
    return isinstance(values, list | tuple) and all(is_number(each) and isfinite(each) for each in values)


def _is_projection(value: Any) -> bool:
    """True for None, and for the fields of a valid `Project`."""
    try:
        return value is None or shaping_problem(msgspec.convert(value, Project)) is None
    except msgspec.ValidationError:
        return False


def read_change(fields: Mapping[str, Any]) -> GuidedShaping | None:
    """Return the shaping of the guided output that a recorded config describes, such as rescaling it. None if it
    describes none."""
    rules = fields.get(RECORDED) or {}
    if rules.get("projection") is not None:
        return msgspec.convert(rules["projection"], Project)
    if rules.get("guided_frames") is not None:
        return GuideFrames(float(rules["guided_frames"]))
    if rules.get("norm_axis") is not None:
        return MatchNorm(int(rules["norm_axis"]))
    channels = rules.get("guided_channels")
    return None if channels is None else GuideChannels(int(channels))


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


def needs_mu(fields: Mapping[str, Any], pipeline: str | None) -> bool:
    """True if a config has a dynamic shift, and neither the rules of the pipeline nor a recording determine it."""
    recorded = fields.get(RECORDED)
    if isinstance(recorded, Mapping) and (recorded.get("mu") is not None or recorded.get(STORED_STEPS) is not None):
        return False
    rules = PIPELINES.get(pipeline or "")
    return bool(fields.get("use_dynamic_shifting")) and (rules is None or rules.patch is None)
