"""Pictures as tokens: patches of 4x4 pixels, each in two residual codebooks of 256 entries that k-means finds.

The second codebook has what the first leaves of a patch (residual vector quantisation: Chen, Guan, Wang 2010, Sensors
10:11259), as the codecs of sound have it.
"""

import torch
from torch import Tensor

PATCH, SIDE = 4, 7  # pixels along a patch, and patches along a picture
CODEBOOKS, ENTRIES = 2, 256
POSITIONS = SIDE * SIDE
FITTED_ON = 50_000  # patches
ROUNDS = 15


def patches(images: Tensor) -> Tensor:
    """[B, 1, 28, 28] -> [B, 49, 16], row by row."""
    return (
        images.unflatten(2, (SIDE, PATCH))
        .unflatten(4, (SIDE, PATCH))
        .permute(0, 2, 4, 1, 3, 5)
        .flatten(3)
        .flatten(1, 2)
    )


def pictures(rows: Tensor) -> Tensor:
    """[B, 49, 16] -> [B, 1, 28, 28]: `patches` the other way round."""
    grid = rows.unflatten(1, (SIDE, SIDE)).unflatten(3, (PATCH, PATCH))
    return grid.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)[:, None]


def nearest(rows: Tensor, entries: Tensor) -> Tensor:
    """The number of the nearest entry [M, D] of each row [N, D]."""
    half = (entries * entries).sum(1) / 2
    return torch.cat([(half - part @ entries.T).argmin(1) for part in rows.split(2**16)])


def fit(images: Tensor, seed: int = 0) -> Tensor:
    """Codebooks [2, 256, 16] of pictures, by k-means on some of their patches. An entry that no patch has is put out of
    their reach."""
    generator = torch.Generator().manual_seed(seed)
    rows = patches(images).flatten(0, 1)
    left = rows[torch.randperm(len(rows), generator=generator)[:FITTED_ON]]
    books = []
    for _ in range(CODEBOOKS):
        entries = left[torch.randperm(len(left), generator=generator)[:ENTRIES]].clone()
        for _ in range(ROUNDS):
            places = nearest(left, entries)
            counts = torch.bincount(places, minlength=ENTRIES)[:, None]
            sums = torch.zeros_like(entries).index_add_(0, places, left)
            entries = torch.where(counts > 0, sums / counts.clamp(min=1), entries)
        places = nearest(left, entries)
        entries[torch.bincount(places, minlength=ENTRIES) == 0] = left.min() - 1  # a twin, which rounding could choose
        left = left - entries[places]
        books.append(entries)
    return torch.stack(books)


def encode(images: Tensor, books: Tensor) -> Tensor:
    """Pictures [B, 1, 28, 28] as tokens [B, 2, 49]."""
    left, ids = patches(images).flatten(0, 1), []
    for entries in books:
        ids.append(nearest(left, entries))
        left = left - entries[ids[-1]]
    return torch.stack(ids, 1).unflatten(0, (len(images), POSITIONS)).transpose(1, 2)


def summed(ids: Tensor, books: Tensor) -> Tensor:
    """The pictures [B, 1, 28, 28] that the entries of tokens [B, 2, 49] add up to."""
    return pictures(sum(entries[ids[:, number]] for number, entries in enumerate(books)))  # type: ignore[arg-type]
