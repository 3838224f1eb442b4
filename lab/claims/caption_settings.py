"""What seeds ask of `text_unet_flow`, and what a judge of clothes sees of its canvases. A recipe knows the words: torch
comes with it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.metrics import Floats
from lab.zoo.members import BY_NAME

MODEL = "text_unet_flow"
Tokens = NDArray[np.int64]


@lru_cache
def words() -> Any:
    """The module of captions."""
    return BY_NAME[MODEL].recipe().captions


def captions(seeds: Sequence[int]) -> list[Any]:
    """The item of a seed is its last digit; colour, place and form take turns above it."""
    _, colours, places, forms = words().CHOICES
    above = [divmod(seed // 10, colours) for seed in seeds]
    return [
        words().Caption(seed % 10, colour, rest % places, rest // places % forms)
        for seed, (rest, colour) in zip(seeds, above, strict=True)
    ]


def texts(seeds: Sequence[int], has: Callable[[bool], bool] = lambda is_colour: True) -> Tokens:
    """Tokens [B, 8] of the captions: those of their words that are wanted, colours or others."""
    named = {words().WORDS.index(name) for name in words().COLOURS}
    rows = [[word for word in caption.tokens if has(word in named)] for caption in captions(seeds)]
    return np.array([row + [0] * (words().LENGTH - len(row)) for row in rows], np.int64)


def colourless(seeds: Sequence[int]) -> Tokens:
    return texts(seeds, lambda is_colour: not is_colour)


def colours(seeds: Sequence[int]) -> Tokens:
    """Tokens [B, 8] of the captions' colours alone."""
    return texts(seeds, lambda is_colour: is_colour)


def pieces(seeds: Sequence[int], x: Floats) -> Floats:
    """What lies where the captions say, [B, 3, 14, 14] in [0, 1]."""
    size, corners = words().ITEM, list(words().PLACES.values())
    places = [corners[caption.place] for caption in captions(seeds)]
    cut = [each[:, top : top + size, left : left + size] for each, (top, left) in zip(x, places, strict=True)]
    return np.clip((np.stack(cut) + 1) / 2, 0, 1)


def seen(seeds: Sequence[int], x: Floats) -> Floats:
    """Their brightness [B, 1, 28, 28] in [-1, 1], each pixel four times: a colour's largest part is 1."""
    return enlarged(2 * pieces(seeds, x).max(1, keepdims=True) - 1)


def enlarged(x: Floats) -> Floats:
    return x.repeat(2, 2).repeat(2, 3)


def has_its_colour(seeds: Sequence[int], x: Floats) -> NDArray[np.bool_]:
    """True where no colour of the palette is nearer to the piece's than the caption's, [B]."""
    palette = np.array(list(words().COLOURS.values()))
    near = pieces(seeds, x).sum((2, 3)) @ (palette / np.linalg.norm(palette, axis=1, keepdims=True)).T
    return near.argmax(1) == np.array([caption.colour for caption in captions(seeds)])
