"""What the autoencoders of all pipelines share: the names of their graphs' ports, and values to compare them with."""

import numpy as np

from fewstep.graph.graph import Array

LATENT, IMAGE = "latent", "image"  # names of the graphs' ports
ENCODING = ("encoder.", "quant_conv.")  # prefixes of the encoder's weight names
BATCHES = (1, 2)  # batch sizes to compare; with larger ones, images would fill the memory


def random_latents(batch: int, shape: tuple[int, ...]) -> Array:
    """Return latents like a sampler's."""
    return np.random.default_rng(batch).standard_normal((batch, *shape), np.float32)


def random_images(batch: int, shape: tuple[int, ...]) -> Array:
    """Return images in [-1, 1]: gradients with noise."""
    noise = np.random.default_rng(batch).uniform(-1, 1, (batch, *shape)).astype(np.float32)
    slope = np.linspace(-0.5, 0.5, shape[-1], dtype=np.float32)
    images: Array = slope + noise / 2
    return images
