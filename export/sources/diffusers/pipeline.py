"""The other networks of a diffusers folder: text encoders with their tokenizers, and an autoencoder."""

import dataclasses
import inspect
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from fewstep.export.companions import Companion, CompanionFailure, add_companion
from fewstep.export.sources.diffusers.autoencoder import AutoencoderSource, read_autoencoder
from fewstep.export.sources.diffusers.files import CONFIG, Folder
from fewstep.export.sources.diffusers.text import TextSource, TokenInput, read_text
from fewstep.graph.files.commit import Writer
from fewstep.graph.graph import Array
from fewstep.runtime.bundle.manifest import AutoencoderEntry, Condition, GraphEntry, Manifest, TextEncoderEntry, Tokens
from fewstep.runtime.lora.file import Lora
from fewstep.runtime.progress import SILENT, Progress

ZEROS_FOR_NONE = "force_zeros_for_empty_prompt"  # set for pipelines whose unconditional text is all zeros
FOLDER = "graphs"
LOG = logging.getLogger("fewstep")
READ = ("unet", "transformer", "vae", "controlnet", "adapter", *(f"text_encoder{n}" for n in ("", "_2", "_3")))
NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")


@dataclass(frozen=True)
class PipelineNetworks:
    """The other networks of a pipeline whose denoiser reads encoded texts and samples latents."""

    text: TextSource | None
    autoencoder: AutoencoderSource | None
    zeros_for_none: bool

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight and config files from which the networks are read."""
        return (*(self.text.files if self.text else ()), *(self.autoencoder.files if self.autoencoder else ()))

    @property
    def file_sizes(self) -> tuple[int, ...]:
        """Bytes of the text encoders and of the autoencoder's decoder and encoder, and 0 for each tokenizer."""
        text = () if self.text is None else (self.text.companion.weights, *(0 for _ in self.text.tokens))
        ways = () if self.autoencoder is None else (self.autoencoder.decoder.weights, self.autoencoder.encoder.weights)
        return (*text, *ways)

    @property
    def encoders(self) -> tuple[str, ...]:
        """The components that are text encoders, such as "text_encoder_2"."""
        return self.text.encoders if self.text else ()

    def with_loras(self, loras: Sequence[Lora]) -> "PipelineNetworks":
        """Return these networks with the low-rank updates for the text encoders."""
        return self if self.text is None else dataclasses.replace(self, text=self.text.with_loras(loras))

    def add(self, writer: Writer, manifest: Manifest, progress: Progress = SILENT) -> Manifest:
        """Export and verify the text encoder and the autoencoder. Return the manifest with their entries."""
        count = (self.text is not None) + 2 * (self.autoencoder is not None)
        if self.text is not None:
            manifest = self._add_text(self.text, writer, manifest)
            progress("pipeline", 1, count)
        if self.autoencoder is not None:
            decoder = add_companion(writer, self.autoencoder.decoder).graph
            progress("pipeline", count - 1, count)
            encoder = add_encoder(writer, self.autoencoder.encoder)
            progress("pipeline", count, count)
            manifest = replace(manifest, autoencoder=AutoencoderEntry(decoder, encoder))
        return manifest

    def _add_text(self, text: TextSource, writer: Writer, manifest: Manifest) -> Manifest:
        """Add the text encoder, its tokenizers, and the encoded empty prompt."""
        added = add_companion(writer, text.companion)
        nothing = {} if text.form is not None else added.run(text.tokenize([""]))  # robot tasks have no guidance
        tokens = tuple(_add_tokenizer(writer, each) for each in text.tokens)
        conditions = tuple(self._add_null_value(writer, each, nothing) for each in manifest.conditions)
        return replace(manifest, text=TextEncoderEntry(added.graph, tokens, text.form), conditions=conditions)

    def _add_null_value(self, writer: Writer, condition: Condition, nothing: dict[str, Array]) -> Condition:
        """Return a text condition whose null value is the encoded empty prompt, or zeros if the pipeline uses zeros."""
        if condition.name not in nothing or condition.null is not None:
            return condition
        value = nothing[condition.name][0]
        if self.zeros_for_none and value.dtype.kind == "f":
            return replace(condition, null=0.0)
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(value), allow_pickle=False)
        return replace(condition, null_file=writer.add(stream.getvalue(), FOLDER, f"null-{condition.name}", ".npy"))


def add_encoder(writer: Writer, encoder: Companion) -> GraphEntry | None:
    """Add the encoder of an autoencoder to a bundle. If it fails in torch, it is left out with a warning: a bundle
    needs it for `--image` only."""
    try:
        return add_companion(writer, encoder).graph
    except CompanionFailure as error:
        LOG.warning("the bundle has no encoder, and takes no --image: %s", error.what)
        return None


def _add_tokenizer(writer: Writer, tokens: TokenInput) -> Tokens:
    """Return the manifest's entry of an input of token ids, and add its tokenizer file."""
    file = writer.add(tokens.tokenizer.content, FOLDER, "tokenizer", ".json")
    replaced = dict(tokens.replaced)
    return Tokens(tokens.input, file, tokens.length, tokens.tokenizer.pad, tokens.mask, replaced)


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

    made = getattr(diffusers, folder.pipeline, None)
    if made is None:
        return bool(folder.index.get(ZEROS_FOR_NONE))
    argument = inspect.signature(made.__init__).parameters.get(ZEROS_FOR_NONE)
    return argument is not None and bool(folder.index.get(ZEROS_FOR_NONE, argument.default))


def warn_of_other_networks(folder: Folder) -> None:
    """Warn of networks that a bundle leaves out because their components have other names, such as bert and vqvae."""
    others = [name for name in folder.index if name not in (*READ, *NOT_NEEDED) and folder.has(name)]
    networks = [f"{name} {folder.class_of(name)}" for name in others if (folder.path / name / CONFIG).is_file()]
    if networks:
        what = "left out: encode texts and decode samples with the pipeline"
        LOG.warning("%s: its networks %s are %s", folder.path, ", ".join(networks), what)
