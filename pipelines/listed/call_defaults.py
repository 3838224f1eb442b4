"""Default arguments of pipelines' calls that are conditions of their networks, from the source of each class in
diffusers 0.42.1."""

DISTILLED_GUIDANCE, FLUX_GUIDANCE = 8.5, 3.5  # of LatentConsistencyModelPipeline and FluxPipeline
STRONG_FLUX = (
    "FluxControlImg2ImgPipeline",
    "FluxControlInpaintPipeline",
    "FluxControlNetImg2ImgPipeline",
    "FluxControlNetInpaintPipeline",
    "FluxControlNetPipeline",
    "FluxImg2ImgPipeline",
    "FluxInpaintPipeline",
)
GUIDANCES = {"FluxFillPipeline": 30.0, "StableDiffusionLDM3DPipeline": 5.0, **dict.fromkeys(STRONG_FLUX, 7.0)}
XL_INPAINTING = ("StableDiffusionXLInpaintPipeline", "StableDiffusionXLPAGInpaintPipeline")
CONTROL_SCALES = {
    "StableDiffusionControlNetImg2ImgPipeline": 0.8,
    "StableDiffusionControlNetInpaintPipeline": 0.5,
    "StableDiffusionControlNetPAGInpaintPipeline": 0.5,
    "StableDiffusionXLControlNetImg2ImgPipeline": 0.8,
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": 0.8,
}


def default_guidance(pipeline: str, usual: float) -> float:
    """Return the `guidance_scale` of a pipeline whose network reads it; `usual` for one that fewstep does not know."""
    if pipeline in GUIDANCES:
        return GUIDANCES[pipeline]
    if "StableDiffusionXL" in pipeline and pipeline not in XL_INPAINTING:
        return 5.0
    return 7.5 if pipeline.startswith(("StableDiffusion", "AltDiffusion")) else usual


def default_control_scale(pipeline: str) -> float:
    """Return the weight of the ControlNet or of the adapter of a pipeline."""
    return CONTROL_SCALES.get(pipeline, 1.0)
