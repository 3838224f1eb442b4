"""The networks that a bundle gets next to its denoiser: a text encoder, and an autoencoder."""

import dataclasses
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from fewstep.export.companions.autoencoder import AutoencoderSource
from fewstep.export.companions.companion import (
    Companion,
    CompanionFailure,
    CompanionGraph,
    GraphFailure,
    add_companion,
    with_free_sizes,
)
from fewstep.export.companions.text import TextSource, TokenInput, tokenize_prompts
from fewstep.graph.files.commit import Writer
from fewstep.graph.graph import Array
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import (
    AutoencoderEntry,
    Condition,
    Description,
    GraphEntry,
    Manifest,
    TextEncoderEntry,
    Tokens,
)
from fewstep.runtime.bundle.platforms import Bits
from fewstep.runtime.lora.file import Lora
from fewstep.runtime.lora.keys import T5
from fewstep.runtime.progress import SILENT, Progress

AddCompanion = Callable[[Companion], CompanionGraph]
LOG = logging.getLogger("fewstep")
FOLDER = "graphs"
NO_PROMPTS = "the bundle takes encoded texts (fewstep encode), not prompts: %s"
NOT_TRACED = "the bundle returns x, since the end of its pipeline's call cannot be exported: %s"

ONE_SIZE = "the %s takes latents of one size, %s: %s"


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
        ways = () if self.autoencoder is None else self.autoencoder.ways
        return (*text, *(way.weights for way in ways))

    @property
    def encoders(self) -> tuple[str, ...]:
        """The components that are text encoders, such as "text_encoder_2", and the name that LoRA files give a T5."""
        if self.text is None:
            return ()
        return self.text.encoders if self.text.t5 is None else tuple(dict.fromkeys((*self.text.encoders, T5)))

    def with_loras(self, loras: Sequence[Lora]) -> "PipelineNetworks":
        """Return these networks with the low-rank updates for the text encoders."""
        return self if self.text is None else dataclasses.replace(self, text=self.text.with_loras(loras))

    def add(
        self, writer: Writer, manifest: Manifest, progress: Progress = SILENT, bits: Bits | None = None
    ) -> Manifest:
        """Export and verify the text encoder and the autoencoder. Return the manifest with their entries.

        bits: those of the weights; those of an autoencoder have 8, since most are of convolutions. None for float32.
        """
        add = partial(add_companion, writer, progress=progress)
        if self.text is not None:
            try:
                manifest = self._add_text(self.text, writer, manifest, partial(add, bits=bits))
            except (CompanionFailure, GraphFailure) as error:
                if not self.text.is_recorded:
                    raise
                LOG.warning(NO_PROMPTS, error.what)
        if self.autoencoder is not None:
            add_8_bits = partial(add, bits=None if bits is None else 8)
            described = add_autoencoder(self.autoencoder, partial(add_with_sizes, add_8_bits, manifest))
            manifest = replace(manifest, autoencoder=described)
        return manifest

    def _add_text(self, text: TextSource, writer: Writer, manifest: Manifest, add: AddCompanion) -> Manifest:
        """Add the text encoder, its tokenizers, and the encoded empty prompt."""
        added = add(text.companion)
        nothing = {}  # robot tasks have no guidance, and the empty prompt of a picture is not known
        if text.form is None and not text.pictures:
            nothing = added.run(tokenize_prompts(text.tokens, [text.nothing], is_negative=True))
        tokens = tuple(_add_tokenizer(writer, token) for token in text.tokens)
        nothing = {
            condition.name: text.cut_nothing(condition, nothing[condition.name][0], manifest.sizes)
            for condition in manifest.conditions
            if condition.name in nothing
        }
        conditions = tuple(self._add_null_value(writer, condition, nothing) for condition in manifest.conditions)
        form = text.form, text.zeros_for_empty, text.lengths, text.nothing if text.pictures else None
        entry = TextEncoderEntry(added.graph, tokens, *form)
        return replace(manifest, text=entry, conditions=conditions)

    def _add_null_value(self, writer: Writer, condition: Condition, nothing: dict[str, Array]) -> Condition:
        """Return a text condition whose null value is the encoded empty prompt, or zeros if the pipeline uses zeros. It
        has none if that is not finite: attention may have no id of an empty prompt left."""
        if condition.name not in nothing or condition.null is not None:
            return condition
        value = nothing[condition.name]
        if self.zeros_for_none and value.dtype.kind == "f":
            return replace(condition, null=0.0)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return condition
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(value), allow_pickle=False)
        return replace(condition, null_file=writer.add(stream.getvalue(), FOLDER, f"null-{condition.name}", ".npy"))


def add_autoencoder(source: AutoencoderSource, add: AddCompanion) -> AutoencoderEntry | None:
    """Add an autoencoder to a bundle, by the function `add`. Returns None, with a warning, if its decoder, which is
    code of a pipeline, fails, or if its graph does not reproduce it. Raises UserError for other problems."""
    try:
        decoder = add(source.decoder).graph
    except (CompanionFailure, GraphFailure) as error:
        LOG.warning(NOT_TRACED, error.what)
        return None
    encoder = None if source.encoder is None else add_encoder(source.encoder, add)
    return AutoencoderEntry(decoder, encoder, source.frame_rate, source.sample_rate)


def add_encoder(encoder: Companion, add: AddCompanion) -> GraphEntry | None:
    """Add the encoder of an autoencoder to a bundle. If it fails in torch, it is left out with a warning: a bundle
    needs it for `--image` only."""
    try:
        return add(encoder).graph
    except CompanionFailure as error:
        LOG.warning("the bundle has no encoder, and takes no --image: %s", error.what)
        return None


def add_with_sizes(add: AddCompanion, takes: Description, companion: Companion) -> CompanionGraph:
    """Add a companion with the free sizes of x. It keeps its usual size, with a warning, if it fails at others."""
    try:
        free = with_free_sizes(companion, takes)
        if free is not None:
            return add(free)
        if any(size.axis is not None for size in takes.sizes):
            LOG.warning(ONE_SIZE, companion.name, list(takes.x_shape), "its pipeline shows no other")
    except UserError as error:
        LOG.warning(ONE_SIZE, companion.name, list(takes.x_shape), error.what)
    return add(companion)


def _add_tokenizer(writer: Writer, tokens: TokenInput) -> Tokens:
    """Return the manifest's entry of an input of token ids, and add its tokenizer file."""
    file = writer.add(tokens.tokenizer.content, FOLDER, "tokenizer", ".json")
    return Tokens(
        tokens.input,
        file,
        tokens.length,
        tokens.tokenizer.pad,
        tokens.mask,
        dict(tokens.replaced),
        tokens.before,
        tokens.after,
        tokens.cleaning,
        tokens.tokenizer.pads_first,
        tokens.negative,
        tokens.negative_cleaning,
        tokens.tokenizer.empty,
        tokens.picture,
    )
