"""Convert the tokenizer in a pipeline's folder to JSON of the library `tokenizers`, which the runtime reads.

A folder has tokenizer.json, to which the special tokens of its configs are added, or the files that it is generated
from: vocab.json and merges.txt of CLIP's byte-pair encoding (Radford et al. 2021).
"""

from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.export.sources.model_files import COPY_AGAIN, TOKENIZER_CONFIG, Config, read_json
from fewstep.export.sources.remote_code import NO_CODE
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.checks import import_package
from fewstep.runtime.text import report_tokenizer_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

JSON, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
NAMED_TOKENS = "special_tokens_map.json"
MORE_TOKENS, FORMER_NAME = "extra_special_tokens", "additional_special_tokens"  # a field with a list or an object
SAVE_FAST = "load it with transformers.AutoTokenizer and write it with save_pretrained(FOLDER)"
CLIP_TOKENS = {"eos_token": "<|endoftext|>"}


@dataclass(frozen=True)
class TokenizerFile:
    """`content` is JSON of the library `tokenizers`, `pad` the padding id after the end of a prompt, or before it if
    `pads_first`. `empty` are the ids of an empty text, if they are not those of the tokenizer."""

    content: bytes
    pad: int
    pads_first: bool = False
    empty: tuple[int, ...] | None = None


def read_tokenizer(home: Path) -> TokenizerFile:
    """Read the tokenizer of a folder. Raises UserError naming the missing files."""
    tokenizers = import_package(
        "tokenizers", f"{home} needs the library tokenizers, which", "pip install 'fewstep[text]'"
    )
    named = read_special_tokens(home)
    with report_tokenizer_errors(f"what is in {home}", COPY_AGAIN):
        if (home / JSON).is_file():
            tokenizer, usual = tokenizers.Tokenizer.from_file(str(home / JSON)), {}
            _add_missing_tokens(tokenizer, home, named)
        elif (home / VOCABULARY).is_file() and (home / MERGES).is_file():
            read_json(home / VOCABULARY)  # transformers would not name a damaged file
            form = import_transformers(home).CLIPTokenizerFast
            theirs = form.from_pretrained(home, local_files_only=True, **NO_CODE)
            tokenizer, usual = theirs.backend_tokenizer, CLIP_TOKENS
        else:
            raise UserError(f"{home} has no {JSON}, and no {VOCABULARY} with {MERGES}", SAVE_FAST)
    tokens = {**usual, **named}
    pad = tokens.get("pad_token") or tokens.get("eos_token")
    padding = None if pad is None else tokenizer.token_to_id(pad)
    if padding is None:
        raise UserError(f"{home} does not define a padding token", f"set pad_token in {TOKENIZER_CONFIG}")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return TokenizerFile(tokenizer.to_str().encode(), padding)


def import_transformers(home: Path) -> Any:
    """Import transformers, the library of text encoders and their tokenizers. Raises UserError if it cannot be
    imported."""
    needs = f"the text encoders of {home.parent} need transformers, which"
    return import_package("transformers", needs, "pip install transformers")


def read_special_tokens(home: Path) -> dict[str, str]:
    """Return the named tokens, such as pad_token, from the two files of a folder.

    If tokenizer_config.json lists the tokens itself (added_tokens_decoder), the older file adds nothing.
    """
    config: Config = read_json(home / TOKENIZER_CONFIG) if (home / TOKENIZER_CONFIG).is_file() else {}
    older: Config = read_json(home / NAMED_TOKENS) if (home / NAMED_TOKENS).is_file() else {}
    named: dict[str, str] = {}
    for listed in (config, {} if "added_tokens_decoder" in config else older):
        for name, token in listed.items():
            token = token.get("content") if isinstance(token, dict) else token
            if name.endswith("_token") and isinstance(token, str):
                named[name] = token
    return named


def _add_missing_tokens(tokenizer: "Tokenizer", home: Path, named: dict[str, str]) -> None:
    """Add the special tokens that the configs name and tokenizer.json lacks, as transformers does. They keep their
    meaning within words."""
    config: Config = read_json(home / TOKENIZER_CONFIG) if (home / TOKENIZER_CONFIG).is_file() else {}
    listed = config.get(MORE_TOKENS, config.get(FORMER_NAME)) or ()
    tokens = list(listed.values() if isinstance(listed, dict) else listed)
    more = [token.get("content") if isinstance(token, dict) else token for token in tokens]
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    missing = {name: text for name, text in named.items() if text not in known}
    _add_special_tokens(tokenizer, missing, *(text for text in more if isinstance(text, str) and text not in known))


def _add_special_tokens(tokenizer: "Tokenizer", named: dict[str, str], *more: str) -> None:
    """Add tokens that keep their meaning wherever they occur in a prompt."""
    from tokenizers import AddedToken

    texts = dict.fromkeys((*named.values(), *more))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in texts])


def tokens_of_several_embeddings(tokenizer: TokenizerFile) -> dict[str, str]:
    """Return the tokens that textual inversion (Gal et al. 2022) gave several embeddings, such as "<cat>" if there is a
    "<cat>_1", and all tokens of each, separated by spaces."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(tokenizer.content.decode())
    added = {token.content for token in made.get_added_tokens_decoder().values()}
    found: dict[str, str] = {}
    for token in sorted(added):
        more = takewhile(added.__contains__, (f"{token}_{number}" for number in count(1)))
        found[token] = " ".join((token, *more))
    return {token: text for token, text in found.items() if text != token}
