"""Prompts to token ids and conditions, on a vocabulary of eight words."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("tokenizers")
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.kinds.graph_entry import DType
from fewstep.runtime.prompts import add_prompt_conditions
from fewstep.runtime.text import TextEncoder, complete_text, load_text_encoder
from tests.bundles import change_bundle
from tests.refusals import refuses
from tests.runtime.text_bundle import LENGTH, TABLE, WORDS, with_companions, with_seeing_encoder


@pytest.fixture
def text(tiny_bundle: Path) -> TextEncoder:
    return load_text_encoder(with_companions(tiny_bundle))


def with_text(bundle: Bundle, **fields: Any) -> Bundle:
    """Return a bundle with other fields of its text encoder."""
    described = msgspec.structs.replace(bundle.manifest.text, **fields)
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, text=described))


def with_tokens(bundle: Bundle, **fields: Any) -> Bundle:
    """Return a bundle with other fields of its tokens."""
    assert bundle.manifest.text is not None
    return with_text(
        bundle, tokens=tuple(msgspec.structs.replace(tokens, **fields) for tokens in bundle.manifest.text.tokens)
    )


def test_ids_lie_between_start_and_end_and_are_padded(text: TextEncoder) -> None:
    fed = text.ids(["A cat", "", "fish"])
    np.testing.assert_array_equal(fed["ids"], [[1, 4, 5, 2, 0, 0], [1, 2, 0, 0, 0, 0], [1, 3, 2, 0, 0, 0]])
    np.testing.assert_array_equal(fed["mask"], [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]])


def test_a_prompt_that_is_too_long_is_cut_and_says_what_is_dropped(
    text: TextEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """Four ids fit between start and end. The dropped words are printed as they were written."""
    fed = text.ids(["a red cat A  Red, Dog"])
    assert fed["ids"].tolist() == [[1, 4, 7, 5, 4, 2]]
    assert "prompt 'a red cat A  Red, Dog' is too long: 4 tokens are kept, 3 are dropped: 'Red, Dog'" in caplog.text
    caplog.clear()
    text.ids(["a red cat a"])
    assert not caplog.text


def test_a_prompt_is_cleaned_and_put_into_its_template(tiny_bundle: Path) -> None:
    bundle = open_bundle(with_companions(tiny_bundle))
    text = load_text_encoder(with_tokens(bundle, before="red ", after=" dog", cleaning=("entities", "spaces", "ends")))
    assert complete_text("  a &lt;\n cat ", text.tokens[0]) == "red a < cat dog"
    assert text.ids(["cat"])["ids"].tolist() == load_text_encoder(bundle).ids(["red cat dog"])["ids"].tolist()


def test_a_negative_prompt_may_have_its_own_template(tiny_bundle: Path) -> None:
    bundle = open_bundle(with_companions(tiny_bundle))
    text = load_text_encoder(with_tokens(bundle, before="red ", after=" dog", negative=("", " fish")))
    (plain,) = load_text_encoder(bundle).encode(["cat fish"]).values()
    (negative,) = text.encode_negative(["cat"]).values()
    assert complete_text("cat", text.tokens[0]) == "red cat dog" and np.array_equal(negative, plain)


@pytest.mark.parametrize(("length", "says"), [(2, None), (1, "adds more special tokens than its 1 ids")])
def test_an_empty_prompt_needs_its_special_tokens_only(tiny_bundle: Path, length: int, says: str | None) -> None:
    """As in Marigold, whose two ids are the start and the end."""
    bundle = with_tokens(open_bundle(with_companions(tiny_bundle)), length=length)
    if says is None:
        assert load_text_encoder(bundle).ids(["", "a cat"])["ids"].tolist() == [[1, 2]] * 2
    else:
        with pytest.raises(UserError, match=says):
            load_text_encoder(bundle)


def test_an_empty_text_may_have_ids_of_its_own(tiny_bundle: Path) -> None:
    text = load_text_encoder(with_tokens(open_bundle(with_companions(tiny_bundle)), empty=(3,)))
    fed = text.ids(["", "A cat"])
    assert (fed["ids"][0].tolist(), fed["mask"][0].tolist()) == ([3, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0])
    assert fed["mask"][1].sum() == 4


def test_padding_may_come_before_the_text(tiny_bundle: Path) -> None:
    fed = load_text_encoder(with_tokens(open_bundle(with_companions(tiny_bundle)), pads_first=True)).ids(["A cat"])
    assert (fed["ids"].tolist(), fed["mask"].tolist()) == ([[0, 0, 1, 4, 5, 2]], [[0, 0, 1, 1, 1, 1]])


@pytest.mark.parametrize(
    ("zeros", "prompt", "negative"), [("never", True, True), ("negative", True, False), ("always", False, False)]
)
def test_an_empty_prompt_may_be_zeros(tiny_bundle: Path, zeros: str, prompt: bool, negative: bool) -> None:
    """As in Bria, whose pipeline does not encode it, or only as a negative prompt."""
    bundle = with_text(open_bundle(with_companions(tiny_bundle)), zeros_for_empty=zeros)
    text, prompts = load_text_encoder(bundle), ["dog", "", "cat"]
    rows = [encode(prompts)["text"] for encode in (text.encode, text.encode_negative)]
    assert [[bool(row.any()) for row in text] for text in rows] == [[True, prompt, True], [True, negative, True]]
    _, away = add_prompt_conditions(bundle, {}, ["cat"], [""])
    assert bool(np.any(away["text"])) is negative


def test_prompts_become_conditions(text: TextEncoder) -> None:
    """A batch of more prompts than run at once, with repeated ones: each row is that of its prompt alone."""
    prompts = ["a cat", "dog", *["a " + "red " * (number % 3) + "dog" for number in range(20)], "a cat"]
    rows = text.encode(prompts)["text"]
    assert rows.shape == (len(prompts), LENGTH, 2) and rows.dtype == np.float32
    for prompt, row in zip(prompts, rows, strict=True):
        fed = text.ids([prompt])
        np.testing.assert_array_equal(row, TABLE[fed["ids"][0]] * fed["mask"][0][:, None])


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ("a cat", r"prompts 'a cat' are not a list of texts; give \['a cat'\]"),
        ([], "prompts is empty; give at least one"),
        ([None], "prompt None is not text"),
        (["\ud800"], "is not valid text"),
    ],
)
def test_what_is_no_prompt_is_one_line(text: TextEncoder, prompts: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        text.encode(prompts)


@pytest.mark.parametrize(
    ("dtype", "shape", "fix"),
    [
        ("int64", (), "give -c class=VALUE$"),
        ("float32", (), "give -c class=VALUE$"),
        ("float32", (3,), r"give class as --conditions FILE.npz \(fewstep encode writes one from"),
    ],
)
def test_a_bundle_without_a_text_encoder_names_what_it_takes(
    tiny_bundle: Path, dtype: DType, shape: tuple[int, ...], fix: str
) -> None:
    bundle = open_bundle(tiny_bundle)
    (condition,) = bundle.manifest.conditions
    conditions = (msgspec.structs.replace(condition, dtype=dtype, shape=shape),)
    manifest = msgspec.structs.replace(bundle.manifest, conditions=conditions)
    with pytest.raises(UserError, match=f"has no text encoder; {fix}"):
        load_text_encoder(replace(bundle, manifest=manifest))


def test_without_the_library_the_command_is_named(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    bundle = with_companions(tiny_bundle)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'fewstep\[text\]'"):
        load_text_encoder(bundle)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{}", "is not a tokenizer"),
        (b"\xff\xfe", "is not a tokenizer"),
        (b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', "is not a tokenizer"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_one_line(tiny_bundle: Path, content: bytes, says: str) -> None:

    bundle = change_bundle(with_companions(tiny_bundle), {"graphs/tokenizer.json": content})
    with pytest.raises(UserError, match=says):
        load_text_encoder(bundle)


def test_prompts_are_encoded_with_a_picture(tiny_bundle: Path) -> None:
    """Equal prompts with other pictures have other conditions."""
    text = load_text_encoder(with_seeing_encoder(tiny_bundle))
    pictures = np.array([[100, 200], [300, 400]], np.float32)
    encoded = text.encode(["cat", "cat"], conditions={"picture": pictures})["text"]
    assert text.reads == ("picture",)
    np.testing.assert_array_equal(encoded[:, 1], TABLE[5] + pictures)
    assert not encoded[:, 3:].any()


def test_each_picture_is_for_a_prompt_in_turn(tiny_bundle: Path) -> None:
    bundle = open_bundle(with_seeing_encoder(tiny_bundle))
    pictures = [np.array([n, 0], np.float32) for n in (100, 200, 300)]
    values, away = add_prompt_conditions(bundle, {"picture": pictures}, ["cat", "dog"], [""])
    firsts = [float(row[1, 0]) for row in values["text"]]
    assert firsts == [TABLE[word, 0] + picture for picture, word in zip((100, 200, 300) * 2, (5, 6) * 3, strict=True)]
    assert [float(row[0, 0]) for row in away["text"]] == [TABLE[1, 0] + picture for picture in (100, 200, 300)]


def test_a_negative_of_a_prompts_length_has_the_picture_of_its_sample(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextEncoder, "has_lengths", property(lambda _: True))
    bundle = open_bundle(with_seeing_encoder(tiny_bundle))
    pictures = [np.array([n, 0], np.float32) for n in (100, 200)]
    _, away = add_prompt_conditions(bundle, {"picture": pictures}, ["cat", "dog"], [""])
    assert [float(row[0, 0]) for row in away["text"]] == [TABLE[1, 0] + picture for picture in (100, 200)]


@pytest.mark.parametrize(
    ("pictures", "says"),
    [({}, "with the condition 'picture', which is missing"), ({"picture": [[1.0, 2.0, 3.0]]}, "has the shape")],
)
def test_a_prompt_without_its_picture_is_refused(tiny_bundle: Path, pictures: dict[str, Any], says: str) -> None:
    text = load_text_encoder(with_seeing_encoder(tiny_bundle))
    with pytest.raises(UserError, match=says):
        text.encode(["cat"], conditions=pictures)


def test_a_prompt_with_a_place_of_the_picture_is_refused(tiny_bundle: Path) -> None:
    text = load_text_encoder(with_seeing_encoder(tiny_bundle, places=(WORDS["dog"], 1)))
    picture = [[0.0, 0.0]]
    assert text.encode(["a dog"], conditions={"picture": picture})["text"].shape == (1, LENGTH, 2)
    with refuses("prompt 'a dog dog' contains the token 6, which stands for a part of the picture", "leave it out"):
        text.encode(["a dog dog"], conditions={"picture": picture})


def test_a_prompt_that_is_too_long_for_a_picture_is_refused(tiny_bundle: Path) -> None:
    """What follows the prompt may be the places of the picture."""
    text = load_text_encoder(with_seeing_encoder(tiny_bundle))
    with pytest.raises(UserError, match="too long by 1 tokens"):
        text.encode(["a red cat a dog"], conditions={"picture": [[0.0, 0.0]]})
