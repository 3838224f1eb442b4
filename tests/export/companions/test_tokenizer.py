"""Tokenizers of a folder become JSON for the library `tokenizers`, with the ids of transformers."""

import json
from pathlib import Path

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")
import tokenizers
import transformers

from fewstep.export.companions.text import TokenInput, tokenize_prompts
from fewstep.export.companions.tokenizer import TokenizerFile, read_special_tokens, read_tokenizer
from fewstep.plans.errors import UserError
from tests.refusals import refuses
from tests.tiny_pipelines import END, write_clip_tokenizer

PROMPTS = (
    "",
    "a cat",
    "A photo of a CAT, don't!",
    "wow!!! 12 dogs",
    f"  naïve  café\n\n漢字 {END} x",
    "!",
    "😀 ok",
    "it's they'll we've I'm",
    "a" * 200 + " " + "dog " * 90,
)


def ids(file: TokenizerFile, prompt: str) -> list[int]:
    found: list[int] = tokenizers.Tokenizer.from_str(file.content.decode()).encode(prompt).ids
    return found


@pytest.mark.parametrize("pad", [END, "!"])
def test_clip_makes_the_ids_of_transformers(pad: str, tmp_path: Path) -> None:
    home = write_clip_tokenizer(tmp_path / "tokenizer", pad)
    theirs, ours = transformers.CLIPTokenizer.from_pretrained(home), read_tokenizer(home)
    assert ours.pad == theirs.pad_token_id
    for prompt in PROMPTS:
        assert ids(ours, prompt) == theirs(prompt).input_ids, prompt


def test_clip_by_hand(tmp_path: Path) -> None:
    """ "A cat!" is: start, "a" that ends a word, "cat", "!" that ends a word, end."""
    home = write_clip_tokenizer(tmp_path / "tokenizer")
    vocabulary = json.loads((home / "vocab.json").read_text())
    wanted = ["<|startoftext|>", "a</w>", "cat</w>", "!</w>", "<|endoftext|>"]
    assert ids(read_tokenizer(home), "A cat!") == [vocabulary[token] for token in wanted]


def test_a_fast_tokenizer_is_taken_as_it_is(tmp_path: Path) -> None:
    theirs = transformers.CLIPTokenizer.from_pretrained(write_clip_tokenizer(tmp_path / "slow"))
    theirs.save_pretrained(tmp_path / "fast")
    assert (tmp_path / "fast" / "tokenizer.json").is_file()
    slow, fast = read_tokenizer(tmp_path / "slow"), read_tokenizer(tmp_path / "fast")
    assert fast.pad == slow.pad and all(ids(fast, prompt) == ids(slow, prompt) for prompt in PROMPTS)


@pytest.mark.parametrize(
    "fields",
    [
        {"pad_token": "!"},
        {"extra_special_tokens": {"a": "dog"}},
        {"additional_special_tokens": ["dog"]},
        {"extra_special_tokens": ["dog"], "additional_special_tokens": ["cat"]},  # the former name is not read
    ],
)
def test_special_tokens_that_a_fast_tokenizer_lacks_are_added(fields: dict[str, object], tmp_path: Path) -> None:
    """As by transformers: "wow!!!" then has the special token "!" three times, which ends no word."""
    transformers.CLIPTokenizer.from_pretrained(write_clip_tokenizer(tmp_path / "slow")).save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **fields}))
    theirs, ours = transformers.CLIPTokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path)
    plain = read_tokenizer(tmp_path / "slow")
    assert any(ids(ours, prompt) != ids(plain, prompt) for prompt in PROMPTS)
    for prompt in PROMPTS:
        assert ids(ours, prompt) == theirs(prompt).input_ids, prompt


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("merges.txt", "c a\nd o g\n", "is not a tokenizer .*Merges.* line 2"),
        ("merges.txt", "q q\nz z\n", "is not a tokenizer"),
        ("vocab.json", "{", "vocab.json is not JSON"),
        ("tokenizer.json", "{}", "is not a tokenizer"),
        ("special_tokens_map.json", '{"pad_token": "nowhere"}', None),
        ("special_tokens_map.json", '{"eos_token": 5, "unk_token": {}}', "is not a tokenizer .*eos_token"),
    ],
)
def test_a_damaged_folder(file: str, content: str, says: str | None, tmp_path: Path) -> None:
    home = write_clip_tokenizer(tmp_path / "tokenizer")
    (home / file).write_text(content)
    if says is None:  # a token that is new, or named by nothing: its usual name counts
        assert read_tokenizer(home).pad > 0
        return
    with pytest.raises(UserError, match=says):
        read_tokenizer(home)


def test_the_config_that_lists_tokens_itself_has_the_last_word(tmp_path: Path) -> None:
    home = write_clip_tokenizer(tmp_path / "a", pad="!", pad_token=END)
    assert read_special_tokens(home)["pad_token"] == "!"
    home = write_clip_tokenizer(tmp_path / "b", pad="!", pad_token=END, added_tokens_decoder={})
    assert read_special_tokens(home)["pad_token"] == END


def test_a_vocabulary_at_which_the_library_panics_is_one_line(tmp_path: Path) -> None:
    """All tokens have one id, which shows only when a prompt is split."""
    home = write_clip_tokenizer(tmp_path / "tokenizer")
    vocabulary = json.loads((home / "vocab.json").read_text())
    (home / "vocab.json").write_text(json.dumps(dict.fromkeys(vocabulary, 0)))
    with refuses(("'ids'", "not a tokenizer")):
        tokenize_prompts([TokenInput("ids", read_tokenizer(home), 77, None)], ["a cat"])
