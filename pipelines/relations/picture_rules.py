"""Inputs of the part of a text encoder that gets features of a picture: embeddings in which these take the places of an
id, and positions that follow the rows and columns of the picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EmbeddedIds:
    """The embeddings [batch, length, width] of the token ids of an encoder, by its module of path `embedding`, with
    features of a picture, of this shape (N, width), in the places of the id `token`."""

    encoder: int
    embedding: str
    token: int
    shape: tuple[int, ...]

    def combine(self, ids: Tensor, embedded: Tensor, features: Tensor) -> Tensor:
        """Return embeddings [batch, length, width] with features [batch, N, width] in the places of the id, in
        order."""
        is_picture = ids == self.token
        places = (is_picture.cumsum(1) - 1).clamp(0, features.shape[1] - 1)
        rows = features.gather(1, places[..., None].expand(*places.shape, features.shape[-1]))
        return torch.where(is_picture[..., None], rows, embedded)


@dataclass(frozen=True)
class PicturePositions:
    """The positions [axes, batch, length] of the token ids of an encoder. Each id of the text moves the position by
    one. `moves` [axes, 2 (N + 1)] is what is added: after k ids of the picture, column 2 k for an id of the text, and
    2 k + 1 for the last of these k."""

    encoder: int
    token: int
    moves: Tensor

    def compute(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the positions from token ids and their mask [batch, length]."""
        columns, before = _count(ids, mask, self.token)
        columns = columns.clamp(max=self.moves.shape[1] - 1)
        return self.moves[:, columns] + before


def find_picture_positions(
    encoder: int, token: int, values: Sequence[Tensor], ids: Sequence[Tensor]
) -> PicturePositions | None:
    """Return the positions that values [axes, 1, length] of several texts [length] are, or None. The texts have no
    padding."""
    if any(value.dim() != 3 or value.shape[1:] != (1, len(own)) for value, own in zip(values, ids, strict=True)):
        return None
    count = int((ids[0] == token).sum())
    moves = torch.zeros(len(values[0]), 2 * (count + 1), dtype=values[0].dtype)
    for value, own in zip(values, ids, strict=True):
        columns, before = _count(own[None], torch.ones_like(own)[None], token)
        if int(columns.max()) < moves.shape[1]:
            moves[:, columns[0]] = (value - before)[:, 0]
    rule = PicturePositions(encoder, token, moves)
    pairs = zip(values, ids, strict=True)
    is_rule = all(torch.equal(rule.compute(own[None], torch.ones_like(own)[None]), value) for value, own in pairs)
    return rule if is_rule else None


def _count(ids: Tensor, mask: Tensor, token: int) -> tuple[Tensor, Tensor]:
    """Return the column of `PicturePositions.moves` for each id [batch, length], and the number of ids of the text
    before it."""
    is_picture = ids == token
    is_text = ~is_picture & (mask > 0)
    return 2 * is_picture.cumsum(1) + is_picture, is_text.cumsum(1) - is_text.long()
