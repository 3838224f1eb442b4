"""Prompts that are JSON objects: recordings change their texts, and keep their keys."""

from typing import Any

from fewstep.export.sources.diffusers.recording.prompt_forms import put_text, read_prompt, rotate_words
from fewstep.export.sources.diffusers.recording.settings import (
    LENGTH,
    NEGATIVE,
    PROMPT,
    SHORTNESS,
    Forms,
    choose_settings,
)
from tests.refusals import refuses

EDIT = {"edit_instruction": "make it red", "count": 2, "scene": {"text": "a cat"}}
ROTATED = {"edit_instruction": "it red make", "count": 2, "scene": {"text": "cat a"}}


class EditPipe:
    def __call__(self, prompt: Any, negative_prompt: Any = None) -> None: ...


def test_a_text_replaces_each_text_of_an_object() -> None:
    assert put_text(EDIT, "a") == {"edit_instruction": "a", "count": 2, "scene": {"text": "a"}}


def test_a_text_replaces_a_text() -> None:
    assert put_text("a red cat", "a") == "a"


def test_the_words_of_each_text_of_an_object_change_their_order() -> None:
    assert rotate_words(EDIT) == ROTATED


def test_an_object_of_single_words_has_no_other_order() -> None:
    with refuses("a recording changes the order of its words"):
        rotate_words({"edit_instruction": "red", "count": 2})


def test_other_prompts_of_a_recording_have_the_form_of_the_given_one() -> None:
    settings = choose_settings(EditPipe(), {PROMPT: EDIT})
    prompts = [settings.of(name)[PROMPT] for name in (PROMPT, LENGTH, SHORTNESS)]
    assert all(set(each) == set(EDIT) for each in prompts)


def test_the_negative_prompt_of_one_length_is_the_text_of_the_object() -> None:
    settings = choose_settings(EditPipe(), {PROMPT: {"text": "a cat"}}, Forms(has_one_length=True))
    assert settings.of() == {PROMPT: {"text": "a cat"}, NEGATIVE: '{"text": "cat a"}'}


def test_a_prompt_to_encode_is_read_as_an_object_if_the_recorded_one_is() -> None:
    assert read_prompt('{"text": "a dog"}', {"text": "a cat"}) == {"text": "a dog"}


def test_a_prompt_to_encode_stays_a_text_if_the_recorded_one_is() -> None:
    assert read_prompt('{"text": "a dog"}', "a cat") == '{"text": "a dog"}'


def test_a_prompt_to_encode_with_other_keys_is_refused() -> None:
    with refuses("no JSON object with the keys", '{"text": "a cat"}'):
        read_prompt("a dog", {"text": "a cat"})
