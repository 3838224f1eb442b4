"""The examples of tokens: codes of patches, the training's masks, bins of actions."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "tokens"))
import action_tokens
import codebooks
from masked_transformer import opened


def test_codes_are_the_nearest_entries_and_pictures_come_back():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 28, 28, generator=generator)
    assert torch.equal(codebooks.pictures(codebooks.patches(images)), images)
    books = codebooks.fit(images)
    ids = codebooks.encode(images, books)
    assert ids.shape == (40, 2, 49) and books.shape == (2, 256, 16)
    rows, first = codebooks.patches(images), books[0][ids[:, 0]]
    assert torch.equal(torch.cdist(rows, books[0]).argmin(2), ids[:, 0])
    both = (codebooks.summed(ids, books) - images).square().mean()
    assert both < 0.8 * (first - rows).square().mean() < 0.8 * images.var()


def test_masks_open_the_mean_of_a_cosine_and_at_least_one():
    unknown = opened(torch.zeros(20_000, 2, 16, dtype=torch.long), torch.Generator().manual_seed(0))
    shares = unknown.float().mean((1, 2))
    assert abs(shares.mean() - 2 / torch.pi) < 0.01 and shares.min() == 1 / 32


def test_actions_are_in_the_middles_of_their_bins():
    positions, seen, _ = action_tokens.demonstrations(100, torch.Generator().manual_seed(0))
    assert seen.shape == (100, 1, 6)
    back = action_tokens.positions(action_tokens.tokens(positions))
    assert (back - positions).abs().max() <= 1.001 * action_tokens.REACH / action_tokens.BINS
