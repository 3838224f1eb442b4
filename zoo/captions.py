"""Coloured clothes of Fashion-MNIST on a small canvas. The caption of each names the item, its colour, its place and
its form."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from denoising import Batch, Data, Draw
from torch import Tensor

from fewstep.export import Condition
from fewstep.models.fashion_mnist import data as fashion_mnist
from fewstep.models.training import drop_labels

SIZE, ITEM = 28, 14  # pixels along a side of the canvas, and of a piece of clothing on it
LENGTH = 8  # number of tokens of a caption
ITEMS = ("shirt", "trousers", "pullover", "dress", "coat", "sandal", "blouse", "sneaker", "bag", "boot")
COLOURS = {
    "red": (1.0, 0.1, 0.1),
    "green": (0.1, 0.9, 0.1),
    "blue": (0.15, 0.25, 1.0),
    "yellow": (1.0, 0.9, 0.1),
    "pink": (1.0, 0.4, 0.9),
    "white": (1.0, 1.0, 1.0),
}
PLACES = {  # the words, and the first row and column of the piece
    "top left": (0, 0),
    "top right": (0, 14),
    "bottom left": (14, 0),
    "bottom right": (14, 14),
    "middle": (7, 7),
}
FORMS = (  # the same word can be at several positions, as in real text
    "a {colour} {item} at the {place}",
    "{colour} {item} {place}",
    "at the {place} a {colour} {item}",
    "a {item} {place} {colour}",
)
WORDS = ("", "a", "at", "the", *COLOURS, *ITEMS, "top", "bottom", "left", "right", "middle")  # the first one is padding
TEXT = Condition("text", input="text", shape=(LENGTH,), null=0, low=0, high=len(WORDS) - 1)
CHOICES = (len(ITEMS), len(COLOURS), len(PLACES), len(FORMS))


@dataclass(frozen=True)
class Caption:
    """Indices into ITEMS, COLOURS, PLACES and FORMS."""

    item: int
    colour: int
    place: int
    form: int

    @property
    def tokens(self) -> list[int]:
        """Return the LENGTH indices into WORDS."""
        colour, place = list(COLOURS)[self.colour], list(PLACES)[self.place]
        words = FORMS[self.form].format(item=ITEMS[self.item], colour=colour, place=place).split()
        return [WORDS.index(word) for word in words] + [0] * (LENGTH - len(words))


def captions(count: int, seed: int) -> list[Caption]:
    """Return random captions."""
    drawn = np.random.default_rng(seed).integers(CHOICES, size=(count, len(CHOICES)))
    return [Caption(*(int(each) for each in row)) for row in drawn]


def rows(count: int, seed: int) -> dict[str, np.ndarray]:
    """Return captions in the form of a file for `calibrate --conditions`: {"text": int64 [count, 8]}."""
    return {"text": np.array([caption.tokens for caption in captions(count, seed)], np.int64)}


def drawn(pieces: Tensor, classes: Tensor) -> Draw:
    """Return a function that draws canvases [B, 3, 28, 28] in [-1, 1] with pieces [N, 14, 14] in [0, 1] of classes [N],
    and the tokens [B, 8] of their captions. A tenth of the canvases has no caption."""
    palette, corners, table = torch.tensor(list(COLOURS.values())), list(PLACES.values()), _table()

    def draw(count: int, generator: torch.Generator) -> Batch:
        chosen = torch.randint(len(pieces), (count,), generator=generator)
        _, colours, places, forms = (torch.randint(n, (count,), generator=generator) for n in CHOICES)
        canvas = torch.zeros(count, 3, SIZE, SIZE)
        for row in range(count):
            top, left = corners[int(places[row])]
            piece = palette[colours[row], :, None, None] * pieces[chosen[row]]
            canvas[row, :, top : top + ITEM, left : left + ITEM] = piece
        text = table[classes[chosen], colours, places, forms]
        dropped = drop_labels(torch.zeros(count), 1, generator) > 0
        return Batch(2 * canvas - 1, (text.masked_fill(dropped[:, None], 0),))

    return draw


def _open(folder: Path | None, split: str) -> Draw:
    """Return the result of `drawn` for Fashion-MNIST."""
    images, labels = fashion_mnist.read(folder, split)
    small = torch.from_numpy(images.reshape(-1, ITEM, 2, ITEM, 2).mean((2, 4)) / 255).float()
    return drawn(small, torch.from_numpy(labels.copy()).long())


def _table() -> Tensor:
    """Return the tokens of every caption, int64 [items, colours, places, forms, 8]."""
    tokens = [Caption(*index).tokens for index in np.ndindex(*CHOICES)]
    return torch.tensor(tokens).reshape(*CHOICES, LENGTH)


CAPTIONED = Data(
    "pieces of Fashion-MNIST, all 60 000 training images (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747), MIT licence,"
    " from the Debian package `dataset-fashion-mnist`; each made half as large, coloured, put on a black canvas, and"
    " captioned by code",
    _open,
)
