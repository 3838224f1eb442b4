"""Fashion-MNIST as 2 x 49 tokens, with a class that may be null:
`fewstep export benchmarks/tokens/fashion_tokens.py:make`."""

from functools import cache
from pathlib import Path

import codebooks
import torch
from masked_transformer import Draw, Example, MaskedTransformer
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec, Vocabulary
from fewstep.models.fashion_mnist import data
from fewstep.models.fashion_mnist.unet import CLASSES, NULL_CLASS
from fewstep.models.training import Recipe, drop_labels
from fewstep.models.weights import load_weights

SHAPE = (codebooks.CODEBOOKS, codebooks.POSITIONS)
SPEC = Spec(
    "fashion_tokens",
    SHAPE,
    (Condition("class", "condition", null=NULL_CLASS, low=0, high=NULL_CLASS - 1, labels=CLASSES),),
    "logits",
    ScheduleSpec("flow"),
    vocabulary=Vocabulary(codebooks.ENTRIES, codebooks.ENTRIES),
)


class FashionTokens(nn.Module):
    """The denoiser with the codebooks [2, 256, 16] of its tokens, which stand beside its weights."""

    def __init__(self) -> None:
        super().__init__()
        width = 192
        label = nn.Embedding(NULL_CLASS + 1, width)
        self.denoiser = MaskedTransformer(SHAPE, codebooks.ENTRIES, label, width, blocks=4, heads=4)
        self.books: Tensor
        self.register_buffer("books", torch.zeros(codebooks.CODEBOOKS, codebooks.ENTRIES, codebooks.PATCH**2))

    def forward(self, ids: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        return self.denoiser(ids, time, condition)


def pictures_of(folder: Path | None, split: str) -> tuple[Tensor, Tensor]:
    """Pictures [N, 1, 28, 28] in [-1, 1] and their classes [N]."""
    pictures, labels = data.read(folder or data.DEBIAN_FOLDER, split)
    return torch.from_numpy(pictures.copy())[:, None].float() / 127.5 - 1, torch.from_numpy(labels.copy()).long()


@cache
def books(folder: Path | None) -> Tensor:
    """The codebooks of the training's pictures, as k-means finds them every time."""
    return codebooks.fit(pictures_of(folder, "train")[0])


def _draw(folder: Path | None, split: str) -> Draw:
    images, labels = pictures_of(folder, "t10k" if split == "test" else split)
    tokens = codebooks.encode(images, books(folder))

    def drawn(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(tokens), (count,), generator=generator)
        return tokens[rows], drop_labels(labels[rows], NULL_CLASS, generator)

    return drawn


def _network(folder: Path | None) -> nn.Module:
    network = FashionTokens()
    network.books.copy_(books(folder))
    return network


EXAMPLE = Example(SPEC, Recipe(steps=4_400, batch=64, rate=1e-3, seed=0), _network, _draw)
RECIPE, training = EXAMPLE.recipe, EXAMPLE.training


def trained() -> FashionTokens:
    """The network with its weights and codebooks."""
    return load_weights(FashionTokens(), Path(__file__).with_suffix(".safetensors"))


def make() -> tuple[nn.Module, Spec]:
    return trained().denoiser, SPEC
