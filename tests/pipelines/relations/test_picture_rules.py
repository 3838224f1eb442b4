"""Embeddings and positions of the ids of a text and of a picture, on four ids of a picture of two rows and columns."""

import pytest
import torch
from torch import Tensor

from fewstep.pipelines.relations.picture_rules import EmbeddedIds, find_picture_positions

PICTURE, COUNT = 9, 4
TEXTS = ((1, 2, 9, 9, 9, 9, 3), (1, 9, 9, 9, 9, 3, 4, 5), (9, 9, 9, 9))


def positions_of(ids: tuple[int, ...]) -> Tensor:
    """Return those of Qwen2.5-VL [time, row and column, 1, length], by hand: a picture takes two positions."""
    start = ids.index(PICTURE)
    before, after = torch.arange(start), torch.arange(len(ids) - start - COUNT) + start + 2
    rows, columns = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    axes = [torch.cat([before, start + own, after]) for own in (torch.zeros(COUNT, dtype=torch.int64), rows, columns)]
    return torch.stack(axes)[:, None]


def test_features_take_the_places_of_an_id_in_order() -> None:
    ids = torch.tensor([TEXTS[0], (1, 9, 9, 9, 9, 0, 0)])
    features = torch.arange(16.0).reshape(2, COUNT, 2) + 100
    embedded = ids[..., None].expand(2, 7, 2).float()
    joined = EmbeddedIds(0, "embed", PICTURE, (COUNT, 2)).combine(ids, embedded, features)
    assert torch.equal(joined[0, 2:6], features[0]) and torch.equal(joined[1, 1:5], features[1])
    assert joined[0, [0, 1, 6]].tolist() == [[1, 1], [2, 2], [3, 3]] and joined[1, 5:].eq(0).all()


def test_positions_after_a_picture_follow_from_its_rows_and_columns() -> None:
    ids = [torch.tensor(text) for text in TEXTS[:2]]
    rule = find_picture_positions(0, PICTURE, [positions_of(text) for text in TEXTS[:2]], ids)
    assert rule is not None
    other = (1, 2, 3, 4, 9, 9, 9, 9, 5)
    padded = torch.tensor([[*other, 0, 0]])
    mask = torch.tensor([[1] * len(other) + [0] * 2])
    assert torch.equal(rule.compute(padded, mask)[..., : len(other)], positions_of(other))


@pytest.mark.parametrize("changed", [0, 1])
def test_positions_of_another_rule_are_refused(changed: int) -> None:
    values = [positions_of(text) for text in TEXTS[:2]]
    values[changed] = values[changed].clone()
    values[changed][..., 0] += 1
    assert find_picture_positions(0, PICTURE, values, [torch.tensor(text) for text in TEXTS[:2]]) is None


def test_positions_of_another_length_are_refused() -> None:
    assert find_picture_positions(0, PICTURE, [positions_of(TEXTS[0])], [torch.tensor(TEXTS[1])]) is None
