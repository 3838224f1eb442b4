"""The examples of tokens: codes of patches, the training's masks, bins of actions."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "tokens"))
import action_tokens
import codebooks
import fashion_tokens
from masked_transformer import opened, training_loss


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


@pytest.mark.parametrize(("example", "most"), [(fashion_tokens, 4e6), (action_tokens, 4e6)])
def test_weights_are_small_and_of_the_recipe(example, most):
    network, spec = example.make()
    assert Path(example.__file__).with_suffix(".safetensors").stat().st_size <= most
    ids = torch.full((2, *spec.x_shape), spec.vocabulary.mask)
    condition = torch.zeros(2, *spec.conditions[0].shape, dtype=getattr(torch, spec.conditions[0].dtype))
    assert network(ids, torch.zeros(2), condition).shape == (2, *spec.x_shape, spec.vocabulary.size)


def test_actions_were_learned():
    """Random weights have ln 128 = 4.9 nats an open token."""
    network, _ = action_tokens.make()
    example = action_tokens.EXAMPLE
    loss = training_loss(example, example.draw(None, "t10k"))
    assert loss(network, torch.Generator().manual_seed(5)).item() < 2.6
