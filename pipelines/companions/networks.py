"""The other networks of a diffusers folder: text encoders with their tokenizers, and an autoencoder."""

import inspect
import logging
from collections.abc import Sequence

from fewstep.export.companions.networks import PipelineNetworks
from fewstep.export.sources.model_files import CONFIG
from fewstep.pipelines.companions.autoencoder import read_autoencoder
from fewstep.pipelines.companions.text import read_text
from fewstep.pipelines.files.folder import Folder
from fewstep.runtime.bundle.manifest import Condition

ZEROS_FOR_NONE = "force_zeros_for_empty_prompt"  # set for pipelines whose unconditional text is all zeros
LOG = logging.getLogger("fewstep")
READ = ("unet", "transformer", "vae", "controlnet", "adapter", *(f"text_encoder{n}" for n in ("", "_2", "_3")))
NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")


def read_pipeline(
    folder: Folder, denoiser: str, x_shape: tuple[int, ...], conditions: Sequence[Condition]
) -> PipelineNetworks | None:
    """Read the text encoder and the autoencoder of a pipeline's folder. Return None if fewstep supports neither.
    `denoiser` is the class name of its denoiser."""
    warn_of_other_networks(folder)
    text, autoencoder = read_text(folder, denoiser, conditions), read_autoencoder(folder, x_shape, denoiser)
    if text is None and autoencoder is None:
        return None
    return PipelineNetworks(text, autoencoder, text is not None and has_zeros_for_none(folder))


def has_zeros_for_none(folder: Folder) -> bool:
    """Return whether the unconditional text of a pipeline is all zeros. If the index does not state it, the default of
    the pipeline's class holds."""
    import diffusers  # takes seconds, and --help does not need it

    pipeline = getattr(diffusers, folder.pipeline, None)
    if pipeline is None:
        return bool(folder.index.get(ZEROS_FOR_NONE))
    argument = inspect.signature(pipeline.__init__).parameters.get(ZEROS_FOR_NONE)
    return argument is not None and bool(folder.index.get(ZEROS_FOR_NONE, argument.default))


def warn_of_other_networks(folder: Folder) -> None:
    """Warn of networks that a bundle leaves out because their components have other names, such as bert and vqvae."""
    others = [name for name in folder.index if name not in (*READ, *NOT_NEEDED) and folder.has(name)]
    networks = [f"{name} {folder.class_of(name)}" for name in others if (folder.path / name / CONFIG).is_file()]
    if networks:
        what = "left out: encode texts and decode samples with the pipeline"
        LOG.warning("%s: its networks %s are %s", folder.path, ", ".join(networks), what)
