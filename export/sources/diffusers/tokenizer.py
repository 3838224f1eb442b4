"""The tokenizer in a pipeline's folder as JSON of the library `tokenizers`, which the runtime reads.

A folder has tokenizer.json, which is taken as it is; or the files that it was once made from: vocab.json and merges.txt
of CLIP's byte-pair encoding (Radford et al. 2021), spiece.model of T5 (Raffel et al. 2020).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.export.sources.diffusers.files import COPY_AGAIN, GIVE_PIPELINE, TOKENIZER_CONFIG, Config, read_json
from fewstep.export.sources.diffusers.sentencepiece import read_pieces
from fewstep.plans.errors import UserError
from fewstep.runtime.text import readable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

JSON, VOCABULARY, MERGES, PIECES = "tokenizer.json", "vocab.json", "merges.txt", "spiece.model"
NAMED_TOKENS = "special_tokens_map.json"
SAVE_FAST = "load it with transformers.AutoTokenizer and write it with save_pretrained(FOLDER)"
CLIP_TOKENS = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
CLIP_WORDS = (  # its own two tokens, the endings of English contractions, letters, one digit, anything else
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
WORD_END = "</w>"
SPACE = "\u2581"  # what SentencePiece writes for a space
SENTINELS = 100  # T5's ids for spans left out, behind its pieces


@dataclass(frozen=True)
class TokenizerFile:
    """`content` is JSON of the library `tokenizers`, `pad` the id behind the end of a prompt."""

    content: bytes
    pad: int


def read_tokenizer(home: Path, lower: bool = False) -> TokenizerFile:
    """The tokenizer of a folder. UserError naming what it has in place of one that is known.

    `lower`: of prompts in lower case, without space at their ends, as some pipelines make them.
    """
    try:
        import tokenizers
    except ImportError as error:
        what = f"{home} needs the library tokenizers, which cannot be imported ({error})"
        raise UserError(what, "pip install 'fewstep[text]'") from error
    named = named_tokens(home)
    with readable(f"what is in {home}", COPY_AGAIN):
        if (home / JSON).is_file():
            tokenizer, usual = tokenizers.Tokenizer.from_file(str(home / JSON)), {}
        elif (home / VOCABULARY).is_file() and (home / MERGES).is_file():
            tokenizer, usual = _clip({**CLIP_TOKENS, **named}, home), CLIP_TOKENS
        elif (home / PIECES).is_file():
            tokenizer, usual = _t5({**T5_TOKENS, **named}, home), T5_TOKENS
        else:
            raise UserError(f"{home} has no {JSON}, and no {VOCABULARY} with {MERGES}, and no {PIECES}", SAVE_FAST)
    tokens = {**usual, **named}
    pad = tokens.get("pad_token") or tokens.get("eos_token")
    padding = None if pad is None else tokenizer.token_to_id(pad)
    if padding is None:
        raise UserError(
            f"{home} does not say with which token prompts are padded", f"set pad_token in {TOKENIZER_CONFIG}"
        )
    if lower:
        first = [tokenizers.normalizers.Lowercase(), tokenizers.normalizers.Strip()]
        own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = tokenizers.normalizers.Sequence([*first, *own])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return TokenizerFile(tokenizer.to_str().encode(), padding)


def named_tokens(home: Path) -> dict[str, str]:
    """The tokens that have a name, such as pad_token, as the two files of a folder have them.

    Where tokenizer_config.json lists the tokens itself (added_tokens_decoder), the older file says nothing more.
    """
    config: Config = read_json(home / TOKENIZER_CONFIG) if (home / TOKENIZER_CONFIG).is_file() else {}
    older: Config = read_json(home / NAMED_TOKENS) if (home / NAMED_TOKENS).is_file() else {}
    named: dict[str, str] = {}
    for said in (config, {} if "added_tokens_decoder" in config else older):
        for name, token in said.items():
            token = token.get("content") if isinstance(token, dict) else token
            if name.endswith("_token") and isinstance(token, str):
                named[name] = token
    return named


def _clip(named: dict[str, str], home: Path) -> "Tokenizer":
    """CLIP's: lower case, words with their punctuation apart, byte pairs that know the end of a word."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocabulary = read_json(home / VOCABULARY)
    lines = (home / MERGES).read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    if not all(len(pair) == 2 for pair in pairs):
        raise UserError(f"{home / MERGES} has a line that is no pair", GIVE_PIPELINE)
    model: Any = models.BPE(
        vocab=vocabulary,
        merges=[(first, second) for first, second in pairs],
        continuing_subword_prefix="",
        end_of_word_suffix=WORD_END,
        fuse_unk=False,
        unk_token=named["unk_token"],
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    _name(tokenizer, named)
    start, end = ((token, _id(tokenizer, token)) for token in (named["bos_token"], named["eos_token"]))
    tokenizer.post_processor = processors.RobertaProcessing(end, start, False, False)
    return tokenizer


def _t5(named: dict[str, str], home: Path) -> "Tokenizer":
    """T5's: the likeliest pieces, each word with the space before it, and the end."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    try:
        pieces = read_pieces((home / PIECES).read_bytes())
    except ValueError as error:
        raise UserError(f"{home / PIECES} is no SentencePiece model that fewstep knows ({error})", SAVE_FAST) from error
    sentinels = [(f"<extra_id_{number}>", 0.0) for number in reversed(range(SENTINELS))]
    tokenizer = Tokenizer(models.Unigram([*pieces.vocabulary, *sentinels], unk_id=pieces.unknown, byte_fallback=False))
    if pieces.characters:
        tokenizer.normalizer = normalizers.Precompiled(pieces.characters)
    space: dict[str, Any] = {"replacement": SPACE, "prepend_scheme": "always", "split": True}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**space)]
    )
    tokenizer.decoder = decoders.Metaspace(**space)
    _name(tokenizer, named, *(name for name, _ in sentinels))
    end = named["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, _id(tokenizer, end))]
    )
    return tokenizer


def _name(tokenizer: "Tokenizer", named: dict[str, str], *more: str) -> None:
    """Tokens that stand for themselves wherever they are written in a prompt."""
    from tokenizers import AddedToken

    texts = dict.fromkeys((*named.values(), *more))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in texts])


def _id(tokenizer: "Tokenizer", token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"{token!r} has no id")
    return found
