"""Checks by the class of a folder's pipeline. Some pipelines feed a supported network differently, or pass other times
to their scheduler."""

import logging
from typing import Any

from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.listed.interface import IMAGE, SCORED, Interface
from fewstep.plans.configs.pipelines import PIPELINES, UNHELD_START

LOG = logging.getLogger("fewstep")
# Prefixes of pipelines of a listed network that are recorded nevertheless
TO_RECORD = ("ConsistencyModel", "DiT", "FluxKontext", "IF")
PERTURBED = "PAG"  # in the names of pipelines that replace attention processors in a branch of their guidance
MASKED_KANDINSKY = ("KandinskyV22InpaintCombinedPipeline", "KandinskyV22InpaintPipeline")
TWO_WEIGHTS = ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline")


def is_listed(pipeline: str) -> bool:
    """Return True for a pipeline that feeds a listed network as the network's config shows."""
    return pipeline in PIPELINES and not pipeline.startswith(TO_RECORD)


def warn_of_pipeline(folder: Folder) -> None:
    """Warn if the plan scheduler:N, or guidance, differs from the pipeline's default."""
    name = folder.pipeline
    if name in TWO_WEIGHTS:
        LOG.warning(
            "%s: --guidance is the guidance_scale of %s with an image_guidance_scale of 1: all its branches read the "
            "image",
            *(folder.path, name),
        )
    elif PERTURBED in name:
        LOG.warning(
            "%s: the bundle has no perturbed attention, with which %s guides by default (pag_scale): add "
            "--change pag:LAYERS, and run with --guidance W+pag:S",
            *(folder.path, name),
        )
    elif name not in PIPELINES:
        why = f"fewstep does not know what {name} changes" if name else "model_index.json names no pipeline"
        LOG.warning("%s: the times of the plan scheduler:N are the scheduler's own: %s", folder.path, why)
    if folder.index.get(SCORED) and folder.is_onnx("unet"):
        LOG.warning(
            "%s: all branches of guidance read an aesthetic score of 6, but the pipeline's unconditional branch reads "
            "one of 2.5 (negative_aesthetic_score): export the original pipeline's folder, or add "
            "--null time_ids=@FILE.npy with float32 [HEIGHT, WIDTH, 0, 0, 2.5], in pixels",
            folder.path,
        )


def with_unheld_start(scheduler: dict[str, Any], pipeline: str, interface: Interface) -> dict[str, Any]:
    """Return the scheduler's config with the field `UNHELD_START` if the pipeline keeps a part of x by a mask, and
    begins with noise everywhere. Most pipelines keep none if their network takes the image itself."""
    is_kept = IMAGE not in interface.arguments or pipeline in MASKED_KANDINSKY
    rules = PIPELINES.get(pipeline)
    return {**scheduler, UNHELD_START: True} if is_kept and rules is not None and rules.unheld_start else scheduler
