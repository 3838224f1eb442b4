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
