"""How a pipeline converts a prompt to token ids: a change of the text, a template around it, and a tokenizer."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, dropwhile
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from fewstep.export.companions.tokenizer import TokenizerFile
from fewstep.pipelines.recording.text_calls import TokenizedText
from fewstep.runtime.kinds.companions import CaptionCleaning, Cleaning, PlainCleaning
from fewstep.runtime.text import clean_text, complete_text
from fewstep.runtime.token_ids import Ids, TokenIds, token_ids

UNCLEAN = "  A  Small&amp;RED\t \u201cBird\u201d on  <i>it</i> (#12 jc6640, www.b.com) "  # differs after each cleaning


class TextError(Exception):
    """A pipeline encodes its texts in a way that no rule describes. The message says what it does."""


class UnknownIdsError(TextError):
    """No tokenizer of a pipeline makes the token ids of an encoder."""


@dataclass(frozen=True)
class FoundTokens:
    """The token ids of an encoder: a tokenizer, their number, and the text around a prompt. `tail` are ids that follow
    those of the tokenizer and their padding, whatever the text. `negative` are the texts around a negative prompt, and
    `negative_cleaning` its changes, if they are others."""

    tokenizer: str
    file: TokenizerFile
    length: int
    before: str
    after: str
    cleaning: tuple[Cleaning, ...]
    tail: tuple[int, ...] = ()
    negative: tuple[str, str] | None = None
    negative_cleaning: tuple[Cleaning, ...] | None = None

    @property
    def full_length(self) -> int:
        """The number of ids that the encoder gets."""
        return self.length + len(self.tail)

    def encode(self, prompt: str, is_negative: bool = False) -> TokenIds:
        """Return the ids [1, full_length] of a prompt, as the encoder gets them."""
        own = read_ids(self.file, complete_text(prompt, self, is_negative), self.length)
        tail = np.array([self.tail], np.int64)
        ids, mask = (np.concatenate(pair, axis=1) for pair in ((own.ids, tail), (own.mask, np.ones_like(tail))))
        return TokenIds(ids, mask, own.dropped)


@dataclass(frozen=True)
class ReadIds:
    """Token ids [length] that an encoder received for a prompt, and the texts that tokenizers had read by then.
    `is_negative`: it is a negative prompt."""

    prompt: str
    ids: Tensor
    texts: Sequence[TokenizedText]
    is_negative: bool = False


def find_tokens(component: str, tokenizers: dict[str, Any], rows: Sequence[ReadIds]) -> FoundTokens:
    """Return how the ids of all rows follow from their prompts. Raises TextError for ids that do not."""
    *tails, last = (), *_possible_tails([row.ids for row in rows])
    for tail in tails:
        with suppress(UnknownIdsError):
            return _find_tokens(component, tokenizers, rows, tail)
    return _find_tokens(component, tokenizers, rows, last)


def add_tail(ids: Tensor, tail: Tensor) -> Tensor:
    """Return ids [batch, length] followed by those of a tail."""
    return torch.cat([ids, tail.expand(ids.shape[0], -1)], dim=1) if len(tail) else ids


def _possible_tails(ids: Sequence[Tensor]) -> list[tuple[int, ...]]:
    """Return the ids at the end that are the same for all texts: first those without equal ids before them, which may
    be the padding of even the longest text, then all."""
    shortest = min(map(len, ids))
    ends = torch.stack([own[len(own) - shortest :] for own in ids]).flip(1)
    count = int((ends == ends[0]).all(dim=0).long().cumprod(0).sum())
    tail = tuple(ids[0][len(ids[0]) - count :].tolist())
    after = tuple(dropwhile(lambda number: number == tail[0], tail))
    return [own for own in dict.fromkeys((after, tail)) if len(own) not in (0, *map(len, ids))]


def _find_tokens(
    component: str, tokenizers: dict[str, Any], rows: Sequence[ReadIds], tail: tuple[int, ...]
) -> FoundTokens:
    rows = [replace(row, ids=row.ids[: len(row.ids) - len(tail)]) for row in rows]
    length = max(len(row.ids) for row in rows)
    reasons = []
    for name, is_special in dict.fromkeys((text.tokenizer, text.is_special) for row in rows for text in row.texts):
        file = read_file(tokenizers[name], is_special)
        if file is None:
            reasons.append(f"its {name} is a {type(tokenizers[name]).__name__}, which is not of the library tokenizers")
            continue
        for padded in (file, replace(file, pads_first=True)):
            side = _with_empty(padded, name, rows, length)
            read = [text for row in rows if (text := _find_text(side, name, row, length)) is not None]
            if len(read) < len(rows):
                continue
            pairs = [(row.prompt, text) for row, text in zip(rows, read, strict=True)]
            negatives = [pair for row, pair in zip(rows, pairs, strict=True) if row.is_negative]
            pairs = [pair for row, pair in zip(rows, pairs, strict=True) if not row.is_negative] or negatives
            own, other = _find_template(component, pairs), None
            if not all(_is_completed(prompt, text, own) for prompt, text in negatives):
                other = _find_template(component, negatives)
            cores = [(prompt, _strip_template(component, text, own)) for prompt, text in pairs]
            others = [(prompt, _strip_template(component, text, other or own)) for prompt, text in negatives]
            cleanings = _find_cleanings(component, cores, others)
            return FoundTokens(name, side, length, *own, cleanings[0], tail, other, cleanings[1])
    reason = reasons[0] if reasons else "no tokenizer of the pipeline returns them with padding at one end"
    raise UnknownIdsError(f"the token ids of its {component} do not follow from a text: {reason}")


def read_file(tokenizer: Any, is_special: bool) -> TokenizerFile | None:
    """Return a tokenizer of transformers as a file of the library tokenizers, or None if it is not based on it.

    is_special: whether it adds its start and end ids.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str") or tokenizer.pad_token_id is None:
        return None
    content = json.loads(backend.to_str())
    content |= {"truncation": None, "padding": None}
    if not is_special:
        content["post_processor"] = None
    return TokenizerFile(json.dumps(content, ensure_ascii=False).encode(), int(tokenizer.pad_token_id))


def read_ids(file: TokenizerFile, text: str, length: int) -> TokenIds:
    """Return the ids [1, length] of a text, as the runtime computes them."""
    return token_ids(
        [text], _load_tokenizer(file.content), length, file.pad, pads_first=file.pads_first, empty=file.empty
    )


@lru_cache(maxsize=4)
def _load_tokenizer(content: bytes) -> Any:
    """Return the tokenizer of a file, which takes tenths of a second to read."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(content.decode())


def _with_empty(file: TokenizerFile, name: str, rows: Sequence[ReadIds], length: int) -> TokenizerFile:
    """Return a tokenizer with the ids of an empty prompt, if these are not its own. Ids with padding are not accepted,
    since none shows where it begins."""
    unread = {tuple(row.ids.tolist()) for row in rows if not row.prompt and _find_text(file, name, row, length) is None}
    return replace(file, empty=unread.pop()) if len(unread) == 1 and len(min(unread)) < length else file


def _find_text(file: TokenizerFile, name: str, row: ReadIds, length: int) -> str | None:
    """Return the text from which a tokenizer makes these ids, or None if it is none of those that it read."""
    nothing = () if file.empty is None else ("",)  # a pipeline with own ids may not call its tokenizer
    for text in dict.fromkeys((*(text.text for text in row.texts if text.tokenizer == name), *nothing)):
        encoded = read_ids(file, text, length)
        own: Ids = row.ids.numpy()
        place = slice(length - len(own), length) if file.pads_first else slice(len(own))
        if np.array_equal(encoded.ids[0, place], own) and encoded.mask[0, place].sum() == encoded.mask.sum():
            return text
    return None


def find_text(tokens: FoundTokens, ids: Tensor, texts: Sequence[TokenizedText]) -> str | None:
    """Return the prompt from which a pipeline made ids [length]; None if it is none of those that tokenizers read."""
    own = ReadIds("", ids[: len(ids) - len(tokens.tail)], texts)
    text = _find_text(tokens.file, tokens.tokenizer, own, tokens.length)
    for before, after in filter(None, (tokens.negative, (tokens.before, tokens.after))):
        if text is not None and _fits_template(text, (before, after)):
            return text[len(before) : len(text) - len(after)]
    return None


def _find_template(component: str, pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return the texts before and after each prompt in what its tokenizer reads."""
    for prompt, text in pairs:
        core = prompt.strip().lower()
        if core and prompt != UNCLEAN and text.lower().count(core) == 1:
            start = text.lower().index(core)
            return text[:start], text[start + len(core) :]
    raise TextError(f"the tokenizer of its {component} reads other texts than the prompt")


def _fits_template(text: str, template: tuple[str, str]) -> bool:
    before, after = template
    return len(text) >= len(before) + len(after) and text.startswith(before) and text.endswith(after)


def _is_completed(prompt: str, text: str, template: tuple[str, str]) -> bool:
    """Return True if a text is a prompt, changed by some cleaning, in a template."""
    before, after = template
    core = text[len(before) : len(text) - len(after)]
    return _fits_template(text, template) and any(clean_text(prompt, own) == core for own in _cleanings())


def _strip_template(component: str, text: str, template: tuple[str, str]) -> str:
    """Return what stands for the prompt in a text. Raises TextError for a text with another template."""
    if not _fits_template(text, template):
        raise TextError(f"the tokenizer of its {component} reads texts with different templates")
    before, after = template
    return text[len(before) : len(text) - len(after)]


def _find_cleanings(
    component: str, pairs: Sequence[tuple[str, str]], negatives: Sequence[tuple[str, str]]
) -> tuple[tuple[Cleaning, ...], tuple[Cleaning, ...] | None]:
    """Return the changes of prompts, and those of negative prompts, or None if they are the same."""
    try:
        return find_cleaning(component, [*pairs, *negatives]), None
    except TextError:
        return find_cleaning(component, pairs), find_cleaning(component, negatives)


def find_cleaning(component: str, pairs: Sequence[tuple[str, str]]) -> tuple[Cleaning, ...]:
    """Return the fewest changes that make the second text of each pair of the first."""
    for cleaning in _cleanings():
        if all(clean_text(prompt, cleaning) == text for prompt, text in pairs):
            return cleaning
    prompt, text = next(pair for pair in (*pairs[::-1],) if pair[0] != pair[1])
    raise TextError(f"the tokenizer of its {component} reads {text[:60]!r} for the prompt {prompt[:60]!r}")


def _cleanings() -> Iterator[tuple[Cleaning, ...]]:
    kinds = get_args(PlainCleaning)
    for count in range(len(kinds) + 1):
        yield from combinations(kinds, count)
    yield from ((kind,) for kind in get_args(CaptionCleaning))
