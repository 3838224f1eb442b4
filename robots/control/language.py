"""The task of an episode in words, as the conditions of a policy."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.errors import UserError
from fewstep.robots.control.history import Window
from fewstep.runtime.text import TextEncoder


def with_prompt(text: TextEncoder, window: Mapping[str, ArrayLike], prompt: str) -> Window:
    """A window with the conditions of a prompt. An observation that the prompt holds as words leaves the window.

    One prompt takes milliseconds. A policy whose prompt holds no observation needs this once an episode.
    """
    observed = {name: np.asarray(value) for name, value in window.items()}
    state = None
    if text.state is not None:
        if text.state.observation not in observed:
            raise UserError(f"the window has no {text.state.observation!r}, which the prompt holds", "observe it first")
        state = observed.pop(text.state.observation)[-1]
    return {**observed, **{name: value[0] for name, value in text.encode([prompt], state).items()}}


class EpisodePrompt:
    """The prompt of a runner's episode. A prompt without an observation is encoded once an episode."""

    def __init__(self, text: TextEncoder | None) -> None:
        self._text, self._prompt = text, ""
        self._encoded: dict[str, NDArray[Any]] = {}

    def condition_names(self, prompt: str | None) -> Collection[str]:
        """The conditions that an episode's prompt gives. UserError for a prompt without text encoder, and for a missing
        one."""
        if self._text is None:
            if prompt is not None:
                what = f"prompt {prompt!r} without a text encoder"
                raise UserError(what, "PolicyRunner(text=load_text_encoder(...))")
            return ()
        if prompt is None:
            raise UserError("the episode has no prompt", "reset(prompt='pick up the cube')")
        return {*self._text.network.outputs}

    def begin(self, prompt: str | None) -> None:
        """Take an episode's prompt, once `names` has checked it."""
        if self._text is None or prompt is None:
            return
        self._prompt = prompt
        self._encoded = {} if self._text.state is not None else dict(with_prompt(self._text, {}, prompt))

    def add_to_window(self, window: Window) -> Window:
        """The window with the prompt's conditions."""
        if self._text is None:
            return window
        return {**window, **self._encoded} if self._encoded else with_prompt(self._text, window, self._prompt)
