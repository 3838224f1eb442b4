"""The task of a policy in words: its tokenizer, the prompt that LeRobot makes of it, and what encodes the tokens.

LeRobot's folders name a tokenizer and do not hold it. Export takes it from the folder `tokenizer` in the policy's
folder, from that folder itself, from the place that the name is, or from the cache of huggingface_hub; it fetches
nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.export.companions import Companion
from fewstep.export.sources.diffusers.pipeline import PipelineNetworks
from fewstep.export.sources.diffusers.text import TextSource, TokenInput, tokenize_prompts
from fewstep.export.sources.diffusers.tokenizer import JSON, MERGES, VOCABULARY, read_tokenizer
from fewstep.plans.errors import UserError
from fewstep.robots.lerobot.normalisation import BEFORE, LINES, RETRAINED, TOKENIZER_STEP, WRITE_IT, processor_steps
from fewstep.robots.lerobot.policy import PolicyFolder
from fewstep.runtime.bundle.manifest import Condition, PromptForm, TensorEntry
from fewstep.runtime.lora.file import Lora
from fewstep.runtime.text import Ids

if TYPE_CHECKING:
    from torch import nn

TRIED = ("", "pick up the cube\n", "push the red block to the left of the bowl, then let it go", "lift")
IDS, MASK = "ids", "mask"


@dataclass(frozen=True)
class Language:
    """The way from tasks to token ids: the tokenizer of a folder, the ids' number, and the form of the prompt."""

    tokens: TokenInput
    form: PromptForm

    def make_companion(
        self, load: Callable[[], "nn.Module"], outputs: Sequence[Condition], vocabulary: int, weights: int
    ) -> PipelineNetworks:
        """The companion that makes conditions of ids and mask. UserError where the tokenizer is another network's."""
        from tokenizers import Tokenizer

        has = Tokenizer.from_str(self.tokens.tokenizer.content.decode()).get_vocab_size()
        if has > vocabulary:
            raise UserError(
                f"the tokenizer has {has} tokens, and the policy's weights know {vocabulary}",
                "give the tokenizer that the policy was trained with",
            )
        shape = ("batch", self.tokens.length)
        inputs = (TensorEntry(IDS, "ids", shape, "int64"), TensorEntry(MASK, "mask", shape, "int64"))
        entries = tuple(TensorEntry(each.name, "condition", ("batch", *each.shape), each.dtype) for each in outputs)
        companion = Companion("text encoder", load, inputs, entries, self._feeds, weights=weights)
        text = TextSource(companion, (self.tokens,), (), (), partial(_load_without_loras, load), self.form)
        return PipelineNetworks(text, None, zeros_for_none=False)

    def _feeds(self, batch: int) -> Mapping[str, Ids]:
        return tokenize_prompts((self.tokens,), [TRIED[number % len(TRIED)] for number in range(batch)])


def _load_without_loras(load: Callable[[], "nn.Module"], loras: Sequence[Lora]) -> "nn.Module":
    return load()


def read_language(folder: PolicyFolder, form: PromptForm | None = None) -> Language:
    """The tokenizer that the preprocessor of a policy names. UserError where it is not there."""
    file = folder.home / BEFORE.file
    steps: dict[Any, Any] = {
        each.get("registry_name"): each.get("config") or {} for each in processor_steps(folder.home, BEFORE)
    }
    settings = steps.get(TOKENIZER_STEP)
    if settings is None:
        raise UserError(f"{file} has no {TOKENIZER_STEP}", RETRAINED)
    if settings.get("padding_side", "right") != "right":
        raise UserError(f"{file} pads texts on the {settings['padding_side']}", WRITE_IT)
    if form is None:
        form = PromptForm("{task}\n" if any(line in steps for line in LINES) else "{task}")
    tokenizer = read_tokenizer(_find_tokenizer(folder.home, str(settings.get("tokenizer_name"))))
    return Language(TokenInput(IDS, tokenizer, int(settings["max_length"]), MASK), form)


def _find_tokenizer(home: Path, name: str) -> Path:
    for place in (home / "tokenizer", home, Path(name), _find_cached_folder(name)):
        if place is not None and ((place / JSON).is_file() or all((place / n).is_file() for n in (VOCABULARY, MERGES))):
            return place
    raise UserError(
        f"{home} has no tokenizer: its policy takes the one of {name}",
        f"put tokenizer.json, tokenizer_config.json and special_tokens_map.json of {name} into {home / 'tokenizer'}",
    )


def _find_cached_folder(name: str) -> Path | None:
    """The folder of a model in the cache of huggingface_hub, if it is there."""
    try:
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(name, JSON)
    except (ImportError, ValueError):  # the second of a name that no hub has
        return None
    return Path(file).parent if isinstance(file, str) else None
