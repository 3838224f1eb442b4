"""A text encoder as a companion of a denoiser, with a tokenizer for each of its inputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.export.companions.companion import Companion
from fewstep.export.companions.tokenizer import TokenizerFile
from fewstep.export.sources.model_files import COPY_AGAIN
from fewstep.graph.graph import Array
from fewstep.runtime.bundle.manifest import Condition, PromptForm, Size
from fewstep.runtime.kinds.companions import Cleaning, TextLength, ZerosForEmpty
from fewstep.runtime.lora.file import Lora
from fewstep.runtime.lora.keys import Component
from fewstep.runtime.lora.networks import name_t5
from fewstep.runtime.text import complete_text, report_tokenizer_errors
from fewstep.runtime.token_ids import Ids, TokenIds, token_ids

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TokenInput:
    """An input of token ids. It corresponds to the manifest's `Tokens`, but its tokenizer is not yet a file of the
    bundle."""

    input: str
    tokenizer: TokenizerFile
    length: int
    mask: str | None
    replaced: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    after: str = ""
    cleaning: tuple[Cleaning, ...] = ()
    negative: tuple[str, str] | None = None
    negative_cleaning: tuple[Cleaning, ...] | None = None
    picture: tuple[int, int] | None = None


@dataclass(frozen=True)
class TextSource:
    """The text encoders of a folder as one companion, with the tokenizer of each input of token ids."""

    companion: Companion
    tokens: tuple[TokenInput, ...]
    files: tuple[Path, ...]  # the files that were read
    encoders: tuple[Component, ...]  # components of the pipeline
    load: "Callable[[Sequence[Lora]], nn.Module]"
    form: PromptForm | None = None
    nothing: str = ""  # the text of the unconditional branch
    t5: Component | None = None  # which of the encoders is a T5
    zeros_for_empty: ZerosForEmpty = "never"  # as in `TextEncoderEntry`
    lengths: tuple[TextLength, ...] = ()
    is_recorded: bool = False  # of a recorded pipeline: it is left out if its graph does not reproduce it
    pictures: tuple[Condition, ...] = ()  # features that it reads, and the denoiser does not

    def with_loras(self, loras: Sequence[Lora]) -> "TextSource":
        """Return this source with LoRA files, which are merged into the text encoders when these are loaded."""
        own = tuple(name_t5(lora, self.t5) for lora in loras)
        return replace(self, companion=replace(self.companion, load=partial(self.load, own)))

    def cut_nothing(self, condition: Condition, value: Array, sizes: Sequence[Size]) -> Array:
        """Return the value [*shape] of the text of the unconditional branch without what follows its tokens, unless it
        gets the length of the prompt."""
        free = {size.name: size.high for size in sizes if not size.of_prompt}
        counts = {entry.input: int(ids.mask.sum()) for entry, ids in _tokenize(self.tokens, [self.nothing], True)}
        lengths = {length.size: counts[length.input] + length.more for length in self.lengths if length.size in free}
        return value[tuple(slice(lengths.get(condition.follows.get(axis, ""))) for axis in range(value.ndim))]


def tokenize_prompts(tokens: Sequence[TokenInput], prompts: Sequence[str], is_negative: bool = False) -> dict[str, Ids]:
    """Return the ids that the runtime computes from prompts, with tokenizers that are not in a bundle yet."""
    fed: dict[str, Ids] = {}
    for entry, ids in _tokenize(tokens, prompts, is_negative):
        fed[entry.input] = ids.ids
        if entry.mask is not None:
            fed[entry.mask] = ids.mask
    return fed


def _tokenize(
    tokens: Sequence[TokenInput], prompts: Sequence[str], is_negative: bool
) -> Iterator[tuple[TokenInput, TokenIds]]:
    from tokenizers import Tokenizer

    for entry in tokens:
        with report_tokenizer_errors(f"the tokenizer of {entry.input!r}", COPY_AGAIN):
            tokenizer = Tokenizer.from_str(entry.tokenizer.content.decode())
            texts = [complete_text(prompt, entry, is_negative) for prompt in prompts]
            file = entry.tokenizer
            ids = token_ids(texts, tokenizer, entry.length, file.pad, entry.replaced, file.pads_first, file.empty)
        yield entry, ids
