"""Default arguments of pipelines' calls that are conditions of their networks."""

import inspect
from importlib.util import find_spec

from fewstep.plans.errors import UserError

DISTILLED, DISTILLED_GUIDANCE = "LatentConsistencyModel", 8.5  # the prefix of LCM's pipelines, and their default
FLUX_GUIDANCE = 3.5  # of FluxPipeline
GUIDANCE = "guidance_scale"


def call_default(pipeline: str, argument: str, usual: float) -> float:
    """Return the default of an argument of a pipeline's call, as its class in diffusers states it; `usual` for a class
    that diffusers does not have. Raises UserError if diffusers cannot be imported, except for an LCM, whose `usual` is
    known."""
    if not all(map(find_spec, ("torch", "diffusers"))):
        if pipeline.startswith(DISTILLED):
            return usual
        what = f"the {argument} that a {pipeline or 'pipeline'} passes to its network is read from diffusers"
        raise UserError(f"{what}, which needs torch and is not installed", "pip install diffusers torch")
    import diffusers

    made = getattr(diffusers, pipeline, None)
    if backends := getattr(made, "_backends", ()):  # of a placeholder, in whose place diffusers imports the class
        what = f"the {argument} that a {pipeline} passes to its network is read from diffusers"
        raise UserError(f"{what}, which needs {' and '.join(backends)} for it", f"pip install {' '.join(backends)}")
    parameter = None if made is None else inspect.signature(made.__call__).parameters.get(argument)
    return usual if parameter is None else float(parameter.default)
