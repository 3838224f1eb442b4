"""Prompts as rows of conditions: from a file, fewstep's own, and together with other conditions."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("tokenizers")
from fewstep.measure.rollouts import prompts
from fewstep.measure.rollouts.conditions_file import GivenConditions
from fewstep.measure.rollouts.prompts import (
    CALIBRATION,
    HELD_OUT,
    encode_prompts,
    expand_prompts,
    given_conditions,
    read_prompts,
)
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition, TensorEntry
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.text import TextEncoder, load_text_encoder
from tests.refusals import refuses
from tests.runtime.text_bundle import with_companions


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(with_companions(tiny_bundle))


def test_a_file_has_one_prompt_a_line(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\ufeffa cat, a dog\r\n\n  red dog \n", encoding="utf-8")
    assert read_prompts(tmp_path / "p.txt") == ["a cat, a dog", "red dog"]
    rows = given_conditions(bundle, None, tmp_path / "p.txt", CALIBRATION).records
    assert rows is not None and rows["class"].tolist() == [0, 0]  # its default
    np.testing.assert_array_equal(rows["text"], load_text_encoder(bundle).encode(["a cat, a dog", "red dog"])["text"])


def test_a_prompt_of_a_command_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("a cat\n red dog \n")
    assert expand_prompts(("a house", f"@{file}", " @home")) == ("a house", "a cat", "red dog", " @home")
    with refuses("there is no file gone.txt", "a space before its @"):
        expand_prompts(("@gone.txt",))
    with refuses("p.txt' is the name of a file", f"@{file}"):
        expand_prompts((str(file),))


def test_a_condition_at_its_default_next_to_prompts_is_not_random(bundle: Bundle) -> None:
    size = Condition("size", "size", (2,), "float32", default=(8.0, 9.0), typical=(0.0, 16.0))
    manifest = msgspec.structs.replace(bundle.manifest, conditions=(*bundle.manifest.conditions, size))
    given = given_conditions(replace(bundle, manifest=manifest), None, None, HELD_OUT)
    assert "size" not in given.random and "size" in given.fixed


@pytest.mark.parametrize(("texts", "fixed"), [([1.0, 2.0], ()), ([1.0, 1.0], ("text", "mask"))])
def test_a_mask_of_texts_of_one_length_is_not_one_value_of_a_condition(
    texts: list[float], fixed: tuple[str, ...], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, mask = Condition("text", "text", (1,), "float32"), Condition("mask", "mask", (2,), "int64", low=0, high=1)
    made = {"text": np.array(texts, np.float32)[:, None], "mask": np.ones((2, 2), np.int64)}
    monkeypatch.setattr(prompts, "encode_prompts", lambda *_: made)
    encoder = bundle.manifest.text
    assert encoder is not None
    outputs = (*encoder.graph.outputs, TensorEntry("mask", "condition", ("batch", 2), "int64"))
    encoder = msgspec.structs.replace(encoder, graph=msgspec.structs.replace(encoder.graph, outputs=outputs))
    manifest = msgspec.structs.replace(bundle.manifest, conditions=(text, mask), text=encoder)
    assert given_conditions(replace(bundle, manifest=manifest), None, None, HELD_OUT).fixed == fixed


def test_each_prompt_has_drawn_values_of_its_own_also_if_texts_differ_in_length(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = Condition("level", "level", (), "float32", typical=(0.0, 1.0))
    manifest = msgspec.structs.replace(bundle.manifest, conditions=(*bundle.manifest.conditions, level))
    own, prompts = replace(bundle, manifest=manifest), ["a cat", "red dog"]
    at_once = encode_prompts(own, prompts)["level"]
    monkeypatch.setattr(TextEncoder, "has_lengths", property(lambda _: True))
    np.testing.assert_array_equal(encode_prompts(own, prompts)["level"], at_once)
    assert at_once[0] != at_once[1]


def test_own_prompts_are_taken_with_a_warning(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    rows = given_conditions(bundle, None, None, HELD_OUT).records
    assert rows is not None and len(rows["text"]) == 64
    assert "using 64 that come with fewstep; --prompts FILE takes yours" in caplog.text


def test_calibration_and_evaluation_have_no_prompt_in_common() -> None:
    assert len(set(CALIBRATION)) == len(set(HELD_OUT)) == 64 and not set(CALIBRATION) & set(HELD_OUT)


def test_prompts_and_conditions_belong_together(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\nred dog\n")
    np.savez(tmp_path / "two.npz", **{"class": np.array([2, 1])})
    np.savez(tmp_path / "three.npz", **{"class": np.array([2, 1, 0])})
    rows = given_conditions(bundle, tmp_path / "two.npz", tmp_path / "p.txt", CALIBRATION).records
    assert rows is not None and rows["class"].tolist() == [2, 1] and len(rows["text"]) == 2
    with refuses(("2 prompts", "3 rows of 'class'"), "the same number"):
        given_conditions(bundle, tmp_path / "three.npz", tmp_path / "p.txt", CALIBRATION)


def test_without_a_text_encoder_values_are_drawn_and_prompts_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    assert given_conditions(open_bundle(tiny_bundle), None, None, CALIBRATION) == GivenConditions(None)
    (tmp_path / "p.txt").write_text("a cat")
    with pytest.raises(UserError, match="has no text encoder"):
        given_conditions(open_bundle(tiny_bundle), None, tmp_path / "p.txt", CALIBRATION)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no file"), (b"\n \n", "has no prompt"), (b"\xff\xfe\x00", "cannot be read")],
)
def test_a_file_of_prompts_that_cannot_be_taken(content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_prompts(tmp_path / "p.txt")
