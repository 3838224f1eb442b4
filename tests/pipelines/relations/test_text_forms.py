"""How a pipeline converts prompts to token ids, with a tokenizer of words."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("tokenizers")
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fewstep.pipelines.recording.text_calls import TokenizedText
from fewstep.pipelines.relations.text_forms import (
    UNCLEAN,
    ReadIds,
    TextError,
    find_cleaning,
    find_text,
    find_tokens,
    read_file,
    read_ids,
)
from fewstep.runtime.text import clean_text

WORDS = ("<pad>", "<unk>", "<end>", "user", ":", "a", "cat", "dog", "red", "answer")
LENGTH = 8


class Words:
    """A tokenizer of transformers, as far as it is read."""

    pad_token_id = 0

    def __init__(self) -> None:
        vocabulary = {word: number for number, word in enumerate(WORDS)}
        self.backend_tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        self.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <end>", special_tokens=[("<end>", 2)]
        )


def rows(
    prompts: Sequence[str],
    before: str = "",
    after: str = "",
    is_special: bool = True,
    length: int = LENGTH,
    pads_first: bool = False,
) -> list[ReadIds]:
    """Return what an encoder receives for prompts."""
    file = read_file(Words(), is_special)
    assert file is not None
    file = replace(file, pads_first=pads_first)
    texts = [f"{before}{prompt.lower()}{after}" for prompt in prompts]
    return [
        ReadIds(
            prompt,
            torch.from_numpy(read_ids(file, text, length).ids[0]),
            [TokenizedText("tokenizer", "dog", is_special), TokenizedText("tokenizer", text, is_special)],
        )
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def test_an_empty_prompt_may_have_ids_of_its_own() -> None:
    """As FIBO encodes an empty prompt, without its tokenizer."""
    empty = ReadIds("", torch.tensor([9]), [])
    tokens = find_tokens("text_encoder", {"tokenizer": Words()}, [*rows(["a cat", "a red dog"]), empty])
    assert tokens.file.empty == (9,)
    assert tokens.encode("").ids[0, :2].tolist() == [9, 0] and tokens.encode("").mask.sum() == 1


def test_padded_ids_of_an_empty_prompt_are_not_its_own() -> None:
    empty = ReadIds("", torch.full((LENGTH,), 9), [])
    with pytest.raises(TextError, match="no tokenizer of the pipeline returns them"):
        find_tokens("text_encoder", {"tokenizer": Words()}, [*rows(["a cat", "a red dog"]), empty])


def test_two_kinds_of_empty_texts_are_refused() -> None:
    """The second has the ids of the tokenizer. A bundle has one kind."""
    texts = [*rows(["a cat", "a red dog", ""]), ReadIds("", torch.tensor([9]), [], is_negative=True)]
    with pytest.raises(TextError, match="no tokenizer of the pipeline returns them"):
        find_tokens("text_encoder", {"tokenizer": Words()}, texts)


@pytest.mark.parametrize("is_special", [False, True])
def test_the_template_and_the_cleaning_are_found(is_special: bool) -> None:
    tokens = find_tokens(
        "text_encoder", {"tokenizer": Words()}, rows(["A cat", "a red dog"], "user: ", " answer", is_special)
    )
    assert (tokens.before, tokens.after, tokens.cleaning, tokens.length) == ("user: ", " answer", ("lower",), LENGTH)
    assert read_ids(tokens.file, "cat", 3).ids.tolist() == [[6, 2, 0] if is_special else [6, 0, 0]]


def test_padding_in_front_of_the_text_is_found() -> None:
    tokens = find_tokens("text_encoder", {"tokenizer": Words()}, rows(["A cat", "a red dog"], pads_first=True))
    assert tokens.file.pads_first and read_ids(tokens.file, "cat", 3).ids.tolist() == [[0, 6, 2]]


def test_ids_without_padding_are_those_of_the_longest_text() -> None:
    texts = [*rows(["a cat"], length=3), *rows(["a red red red dog"])]
    assert find_tokens("text_encoder", {"tokenizer": Words()}, texts).length == LENGTH


def test_ids_that_follow_the_padding_of_each_text_are_its_tail() -> None:
    """As in a template whose end is not padded."""
    texts = [
        replace(row, ids=torch.cat([row.ids, torch.tensor([2, 9])]))
        for row in rows(["a cat", "a red red red red red dog"])
    ]
    tokens = find_tokens("text_encoder", {"tokenizer": Words()}, texts)
    assert (tokens.length, tokens.tail, tokens.full_length) == (LENGTH, (2, 9), LENGTH + 2)
    encoded = tokens.encode("a cat")
    assert encoded.ids.tolist() == [texts[0].ids.tolist()] and encoded.mask.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0, 1, 1]]
    assert find_text(tokens, texts[0].ids, texts[0].texts) == "a cat"


def test_padding_of_all_texts_is_no_part_of_the_tail() -> None:
    texts = [replace(row, ids=torch.cat([row.ids, torch.tensor([2, 9])])) for row in rows(["a cat", "a red dog"])]
    tokens = find_tokens("text_encoder", {"tokenizer": Words()}, texts)
    assert (tokens.length, tokens.tail) == (LENGTH, (2, 9))
    assert tokens.encode("a red red red red dog").ids.tolist() == [[5, 8, 8, 8, 8, 7, 2, 0, 2, 9]]


def test_a_default_text_is_read_from_its_ids() -> None:
    tokens = find_tokens("text_encoder", {"tokenizer": Words()}, rows(["a cat", "a dog"], "user: "))
    (other,) = rows(["red cat"], "user: ")
    assert find_text(tokens, other.ids, other.texts) == "red cat"


def test_ids_of_another_text_are_refused() -> None:
    (first,) = rows(["a cat"])
    with pytest.raises(TextError, match="do not follow from a text"):
        find_tokens("text_encoder", {"tokenizer": Words()}, [ReadIds("a cat", first.ids.flip(0), first.texts)])


def test_negative_prompts_may_have_a_template_of_their_own() -> None:
    negatives = [replace(row, is_negative=True) for row in rows(["red cat", "", "dog"], "user: ")]
    tokens = find_tokens("text_encoder", {"tokenizer": Words()}, [*rows(["a cat", "a dog"], "cats: "), *negatives])
    assert (tokens.before, tokens.negative) == ("cats: ", ("user: ", ""))
    assert find_text(tokens, negatives[0].ids, negatives[0].texts) == "red cat"
    assert torch.equal(torch.from_numpy(tokens.encode("dog", is_negative=True).ids[0]), negatives[2].ids)


@pytest.mark.parametrize("before", ["", "user: "])
def test_the_template_of_negative_prompts_may_contain_the_other(before: str) -> None:
    negatives = [replace(row, is_negative=True) for row in rows(["red cat", "dog"], f"{before}red ")]
    tokens = find_tokens("text_encoder", {"tokenizer": Words()}, [*rows(["a cat", "a dog"], before), *negatives])
    assert (tokens.before, tokens.negative) == (before, (f"{before}red ", ""))


def test_negative_prompts_of_the_same_template_have_no_other() -> None:
    """The empty one alone does not show its template."""
    texts = [*rows(["a cat", "a dog"], "user: "), replace(rows([""], "user: ")[0], is_negative=True)]
    assert find_tokens("text_encoder", {"tokenizer": Words()}, texts).negative is None


def test_templates_of_equal_length_are_told_apart() -> None:
    texts = [*rows(["a cat"], "user: "), *rows(["a dog"], "cats: ")]
    with pytest.raises(TextError, match="different templates"):
        find_tokens("text_encoder", {"tokenizer": Words()}, texts)


def test_a_tokenizer_of_another_library_is_refused() -> None:
    with pytest.raises(TextError, match="its tokenizer is a object"):
        find_tokens("text_encoder", {"tokenizer": object()}, rows(["a cat"]))


@pytest.mark.parametrize(
    "cleaning",
    [
        (),
        ("ends",),
        ("lower", "ends"),
        ("entities", "quotes", "spaces", "ends"),
        ("spaces", "lower"),
        ("unquoted", "spaces", "lower", "ends"),
        ("captions",),
        ("html captions",),
    ],
)
def test_each_cleaning_is_told_apart(cleaning: Any) -> None:
    assert find_cleaning("text_encoder", [("a cat", "a cat"), (UNCLEAN, clean_text(UNCLEAN, cleaning))]) == cleaning


def test_negative_prompts_may_be_changed_in_another_way() -> None:
    """As in LongCat, which changes its prompts only."""
    names = [TokenizedText("tokenizer", text, True) for text in ("a cat", "A cat")]
    (small,), (large,) = rows(["a cat"]), rows(["a dog"])
    texts = [ReadIds("A cat", small.ids, names[:1]), *rows(["a dog"]), replace(large, is_negative=True)]
    capital = read_ids(find_tokens("text_encoder", {"tokenizer": Words()}, texts).file, "A cat", LENGTH)
    negative = ReadIds("A cat", torch.from_numpy(capital.ids[0]), names[1:], is_negative=True)
    tokens = find_tokens("text_encoder", {"tokenizer": Words()}, [*texts, negative])
    assert (tokens.cleaning, tokens.negative_cleaning) == (("lower",), ())
    assert tokens.encode("A cat").ids.tolist() == [small.ids.tolist()]
    assert tokens.encode("A cat", is_negative=True).ids.tolist() == capital.ids.tolist()


def test_another_change_of_the_prompt_is_refused() -> None:
    with pytest.raises(TextError, match="reads 'tac a' for the prompt 'a cat'"):
        find_cleaning("text_encoder", [("a cat", "tac a")])
