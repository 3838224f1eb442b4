"""Text prompts of a policy: its tokenizer, LeRobot's prompt format, and the network that encodes the tokens.

LeRobot's folders only name a tokenizer. Export looks for it in the subfolder `tokenizer` of the policy's folder, in the
policy's folder, at the name as a path, and in the cache of huggingface_hub. It downloads nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.export.companions.companion import Companion
from fewstep.export.companions.networks import PipelineNetworks
from fewstep.export.companions.text import TextSource, TokenInput, tokenize_prompts
from fewstep.export.companions.tokenizer import JSON, MERGES, VOCABULARY, read_tokenizer
from fewstep.plans.errors import UserError
from fewstep.robots.lerobot.normalisation import BEFORE, LINES, RETRAINED, TOKENIZER_STEP, WRITE_IT, processor_steps
from fewstep.robots.lerobot.policy import PolicyFolder
from fewstep.runtime.bundle.manifest import Condition, PromptForm, TensorEntry
from fewstep.runtime.lora.file import Lora
from fewstep.runtime.token_ids import Ids

if TYPE_CHECKING:
    from torch import nn

TRIED = ("", "pick up the cube\n", "push the red block to the left of the bowl, then let it go", "lift")
IDS, MASK = "ids", "mask"


@dataclass(frozen=True)
class Language:
    """The conversion of tasks to token ids: the tokenizer with the number of ids (`tokens`), and the prompt format."""

    tokens: TokenInput
    form: PromptForm

    def make_companion(
        self, load: Callable[[], "nn.Module"], outputs: Sequence[Condition], vocabulary: int, weights: int
    ) -> PipelineNetworks:
        """Return the companion network that encodes ids and mask to conditions. Raises UserError if the tokenizer does
        not fit the network."""
        from tokenizers import Tokenizer

        has = Tokenizer.from_str(self.tokens.tokenizer.content.decode()).get_vocab_size()
        if has > vocabulary:
            raise UserError(
                f"the tokenizer has {has} tokens, but the policy's weights have {vocabulary}",
                "give the tokenizer that the policy was trained with",
            )
        shape = ("batch", self.tokens.length)
        inputs = (TensorEntry(IDS, "ids", shape, "int64"), TensorEntry(MASK, "mask", shape, "int64"))
        entries = tuple(
            TensorEntry(output.name, "condition", ("batch", *output.shape), output.dtype) for output in outputs
        )
        companion = Companion("text encoder", load, inputs, entries, self._feeds, weights=weights)
        text = TextSource(companion, (self.tokens,), (), (), partial(_load_without_loras, load), self.form)
        return PipelineNetworks(text, None, zeros_for_none=False)

    def _feeds(self, batch: int) -> Mapping[str, Ids]:
        return tokenize_prompts((self.tokens,), [TRIED[number % len(TRIED)] for number in range(batch)])


def _load_without_loras(load: Callable[[], "nn.Module"], loras: Sequence[Lora]) -> "nn.Module":
    return load()


def read_language(folder: PolicyFolder, form: PromptForm | None = None) -> Language:
    """Return the tokenizer that the preprocessor of a policy names. Raises UserError if it is not found."""
    file = folder.home / BEFORE.file
    steps: dict[Any, Any] = {
        step.get("registry_name"): step.get("config") or {} for step in processor_steps(folder.home, BEFORE)
    }
    settings = steps.get(TOKENIZER_STEP)
    if settings is None:
        raise UserError(f"{file} has no {TOKENIZER_STEP}", RETRAINED)
    if settings.get("padding_side", "right") != "right":
        raise UserError(
            f"{file} pads texts on the {settings['padding_side']}; fewstep reads only padding on the right", WRITE_IT
        )
    if form is None:
        form = PromptForm("{task}\n" if any(line in steps for line in LINES) else "{task}")
    tokenizer = read_tokenizer(_find_tokenizer(folder.home, str(settings.get("tokenizer_name"))))
    return Language(TokenInput(IDS, tokenizer, int(settings["max_length"]), MASK), form)


def _find_tokenizer(home: Path, name: str) -> Path:
    for place in (home / "tokenizer", home, Path(name), _find_cached_folder(name)):
        if place is not None and ((place / JSON).is_file() or all((place / n).is_file() for n in (VOCABULARY, MERGES))):
            return place
    raise UserError(
        f"{home} has no tokenizer; its policy uses that of {name}",
        f"put tokenizer.json, tokenizer_config.json and special_tokens_map.json of {name} into {home / 'tokenizer'}",
    )


def _find_cached_folder(name: str) -> Path | None:
    """Return the folder of a model in the cache of huggingface_hub; None without one."""
    try:
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(name, JSON)
    except (ImportError, ValueError):  # ValueError: an invalid repository name
        return None
    return Path(file).parent if isinstance(file, str) else None
