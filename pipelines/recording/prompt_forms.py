"""The form of a pipeline's prompts: a text, or a JSON object with texts, whose keys all prompts have (FIBO Edit)."""

import json
from collections.abc import Mapping
from typing import Any

from fewstep.plans.errors import UserError


def put_text(prompt: Any, text: str) -> Any:
    """Return a prompt of the form of `prompt`: the text, or an object with this text in place of each of its texts."""
    if isinstance(prompt, Mapping):
        return {
            name: put_text(each, text) if isinstance(each, str | Mapping) else each for name, each in prompt.items()
        }
    return text


def rotate_words(prompt: Any) -> Any:
    """Return a prompt whose texts begin with their second word, and end with their first. Raises UserError if that
    changes no text."""
    rotated = _rotate(prompt)
    if rotated == _rotate(rotated):
        what = f"--call prompt={show_prompt(prompt)!r}: a recording changes the order of its words"
        raise UserError(what, "give a prompt of two or more different words")
    return rotated


def show_prompt(prompt: Any) -> str:
    """Return a prompt as one text."""
    return json.dumps(prompt) if isinstance(prompt, Mapping) else str(prompt)


def read_prompt(text: str, usual: Any) -> Any:
    """Return the prompt that a text gives, in the form of the recorded one. Raises UserError for a text that is not an
    object with the same keys."""
    if not isinstance(usual, Mapping):
        return text
    try:
        read = json.loads(text)
    except ValueError:
        read = None
    if not isinstance(read, dict) or set(read) != set(usual):
        what = f"the prompt {text!r} is no JSON object with the keys of the recorded one"
        raise UserError(what, f"give a prompt such as {json.dumps(usual)}")
    return read


def _has_text(value: Any) -> bool:
    return isinstance(value, str | Mapping)


def _rotate(prompt: Any) -> Any:
    if isinstance(prompt, Mapping):
        return {name: _rotate(each) if _has_text(each) else each for name, each in prompt.items()}
    words = str(prompt).split()
    return " ".join([*words[1:], *words[:1]])
