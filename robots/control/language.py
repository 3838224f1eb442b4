"""Encode the text prompt of an episode as conditions of a policy."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.errors import UserError
from fewstep.robots.control.history import Window
from fewstep.runtime.text import TextEncoder


def with_prompt(text: TextEncoder, window: Mapping[str, ArrayLike], prompt: str) -> Window:
    """Return a window with the conditions of a prompt, which may contain an observation of the window as words.

    Encoding a prompt takes milliseconds. A policy whose prompt contains no observation needs it only once per episode.
    """
    observed = {name: np.asarray(value) for name, value in window.items()}
    state = None
    if text.state is not None:
        if text.state.observation not in observed:
            raise UserError(
                f"the window has no {text.state.observation!r}, which is part of the prompt", "observe it first"
            )
        state = observed[text.state.observation][-1]
    return {**observed, **{name: value[0] for name, value in text.encode([prompt], state).items()}}


class EpisodePrompt:
    """The prompt of a runner's episode. A prompt without an observation is encoded once per episode."""

    def __init__(self, text: TextEncoder | None) -> None:
        self._text, self._prompt = text, ""
        self._encoded: dict[str, NDArray[Any]] = {}

    def condition_names(self, prompt: str | None) -> Collection[str]:
        """Return the names of the conditions that a prompt provides. Raises UserError for a missing prompt, and for a
        prompt without a text encoder."""
        if self._text is None:
            if prompt is not None:
                what = f"prompt {prompt!r} needs a text encoder"
                raise UserError(what, "give PolicyRunner(text=load_text_encoder(...))")
            return ()
        if prompt is None:
            raise UserError("the episode has no prompt", "give one: reset(prompt='pick up the cube')")
        return self._text.conditions

    def begin(self, prompt: str | None) -> None:
        """Set an episode's prompt, after `condition_names` has checked it."""
        if self._text is None or prompt is None:
            return
        self._prompt = prompt
        self._encoded = {} if self._text.state is not None else dict(with_prompt(self._text, {}, prompt))

    def add_to_window(self, window: Window) -> Window:
        """Return the window with the conditions of the prompt."""
        if self._text is None:
            return window
        return {**window, **self._encoded} if self._encoded else with_prompt(self._text, window, self._prompt)
