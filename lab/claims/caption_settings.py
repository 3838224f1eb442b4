"""Conditions of `text_unet_flow` for each seed, and what the judge of Fashion-MNIST sees of its canvases. The module of
captions needs torch, so it is imported when it is used."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.metrics import Floats
from zoo.members import BY_NAME

MODEL = "text_unet_flow"
Tokens = NDArray[np.int64]


@lru_cache
def words() -> Any:
    """Return the module of captions."""
    return BY_NAME[MODEL].recipe().captions


def captions(seeds: Sequence[int]) -> list[Any]:
    """Return the caption of each seed. The item is its last digit, and its other digits select colour, place and form
    in turn."""
    _, colours, places, forms = words().CHOICES
    above = [divmod(seed // 10, colours) for seed in seeds]
    return [
        words().Caption(seed % 10, colour, rest % places, rest // places % forms)
        for seed, (rest, colour) in zip(seeds, above, strict=True)
    ]


def texts(seeds: Sequence[int], has: Callable[[bool], bool] = lambda is_colour: True) -> Tokens:
    """Return the tokens [B, 8] of the captions, with only the words that `has` selects."""
    named = {words().WORDS.index(name) for name in words().COLOURS}
    rows = [[word for word in caption.tokens if has(word in named)] for caption in captions(seeds)]
    return np.array([row + [0] * (words().LENGTH - len(row)) for row in rows], np.int64)


def colourless(seeds: Sequence[int]) -> Tokens:
    return texts(seeds, lambda is_colour: not is_colour)


def colours(seeds: Sequence[int]) -> Tokens:
    """Return the tokens [B, 8] of the captions' colours only."""
    return texts(seeds, lambda is_colour: is_colour)


def pieces(seeds: Sequence[int], x: Floats) -> Floats:
    """Return the region [B, 3, 14, 14] of each canvas where its caption puts the piece of clothing, in [0, 1]."""
    size, corners = words().ITEM, list(words().PLACES.values())
    places = [corners[caption.place] for caption in captions(seeds)]
    cut = [each[:, top : top + size, left : left + size] for each, (top, left) in zip(x, places, strict=True)]
    return np.clip((np.stack(cut) + 1) / 2, 0, 1)


def seen(seeds: Sequence[int], x: Floats) -> Floats:
    """Return the brightness of these regions, [B, 1, 28, 28] in [-1, 1], with each pixel repeated four times.
    Brightness is relative to the largest component of the colour."""
    return enlarge(2 * pieces(seeds, x).max(1, keepdims=True) - 1)


def enlarge(x: Floats) -> Floats:
    return x.repeat(2, 2).repeat(2, 3)


def has_its_colour(seeds: Sequence[int], x: Floats) -> NDArray[np.bool_]:
    """Return [B], True where the colour of the caption is the one of the palette that is closest to the colour of the
    piece."""
    palette = np.array(list(words().COLOURS.values()))
    near = pieces(seeds, x).sum((2, 3)) @ (palette / np.linalg.norm(palette, axis=1, keepdims=True)).T
    return near.argmax(1) == np.array([caption.colour for caption in captions(seeds)])
