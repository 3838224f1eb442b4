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

from fewstep.models.fashion_mnist.data import DEBIAN_FOLDER


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


def test_rounding_chooses_no_entry():
    """Patches that are all alike are many entries of k-means at first, and one that is used."""
    images = torch.rand(60, 1, 28, 28, generator=torch.Generator().manual_seed(0)).clamp(min=0.9)
    books = codebooks.fit(torch.cat([images[:20], torch.full_like(images, -1.0)]))
    for own, pictures in ((books, -torch.ones(1, 1, 28, 28)), (fashion_tokens.trained().books, _drawn())):
        ids = codebooks.encode(pictures, own)
        assert (codebooks.encode(pictures.double(), own.double()) != ids).float().mean() < 1e-3
        assert (own[0] < -1.5).all(1).sum() > 70 and (own[0][ids[:, 0]] > -1.5).all()


def _drawn():
    """Pictures in the colours of clothes: half of them background, and half of any entries."""
    books, generator = fashion_tokens.trained().books, torch.Generator().manual_seed(0)
    ids = torch.randint(256, (100, 2, 49), generator=generator)
    pictures = codebooks.patches(codebooks.summed(ids, books).clamp(-1, 1))
    is_random = torch.rand(100, 49, 1, generator=generator) < 0.5
    return codebooks.pictures(torch.where(is_random, pictures, -1.0))


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_pictures_were_learned_by_the_stored_codebooks():
    """With books in float16 the loss of these pictures was 6 nats."""
    network, images = fashion_tokens.trained(), fashion_tokens.pictures_of(None, "t10k")
    tokens = codebooks.encode(images[0][:64], network.books)
    loss = training_loss(fashion_tokens.EXAMPLE, lambda count, generator: (tokens[:count], images[1][:count]))
    assert loss(network, torch.Generator().manual_seed(5)).item() < 2.6


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
