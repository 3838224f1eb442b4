"""Token ids of prompts, by a tokenizer of the library tokenizers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError

SHOWN = 80  # characters of a prompt in a message
Ids = NDArray[np.int64]
Cut = tuple[int, int, str]  # tokens dropped, tokens kept, the text dropped


@dataclass(frozen=True)
class TokenIds:
    """Token ids [N, length] of N prompts.

    mask: 1 for ids of the prompt, 0 for padding.
    dropped: for each prompt that was too long, what was cut.
    """

    ids: Ids
    mask: Ids
    dropped: Mapping[str, Cut]


def token_ids(
    prompts: Sequence[str],
    tokenizer: Any,
    length: int,
    pad: int,
    replaced: Mapping[str, str] = MappingProxyType({}),
    pads_first: bool = False,
    empty: Sequence[int] | None = None,
) -> TokenIds:
    """Tokenize prompts with a `tokenizers.Tokenizer`, truncated and padded to a length.

    replaced: the text that replaces a token, wherever a prompt contains that token. pads_first: padding comes before
        the text. empty: the ids of an empty text, instead of those of the tokenizer.
    """
    ids = np.full((len(prompts), length), pad, np.int64)
    mask = np.zeros((len(prompts), length), np.int64)
    dropped = {}
    room = length - tokenizer.num_special_tokens_to_add(is_pair=False)
    for index, prompt in enumerate(prompts):
        encoding, text = tokenizer.encode(prompt, add_special_tokens=False), prompt
        for token in sorted(set(encoding.tokens) & set(replaced)):
            text = text.replace(token, replaced[token])
        if text != prompt:
            encoding = tokenizer.encode(text, add_special_tokens=False)
        if len(encoding.ids) > room:
            dropped[prompt] = (len(encoding.ids) - room, room, text[encoding.offsets[room][0] :].strip())
            encoding.truncate(room)
        row = tokenizer.post_process(encoding).ids if prompt or empty is None else empty
        place = slice(length - len(row), length) if pads_first else slice(len(row))
        ids[index, place], mask[index, place] = row, 1
    return TokenIds(ids, mask, dropped)


def refuse_places(prompts: Sequence[str], ids: Ids, token: int, count: int) -> None:
    """Raise UserError for a prompt whose ids [N, length] have the token of a picture more often than the `count` places
    that features of the picture take."""
    for prompt, row in zip(prompts, ids, strict=True):
        if int((row == token).sum()) > count:
            what = f"prompt {shorten(prompt)} contains the token {token}, which stands for a part of the picture"
            raise UserError(what, "leave it out")


def shorten(text: str) -> str:
    """Return the start of a text, in quotes."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")
