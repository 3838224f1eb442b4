"""The number of samples in a call of `fewstep run`."""

from math import prod

from fewstep.cli.run.options import RunOptions
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.kinds.sizes import output_shape

BATCH = 64  # samples of one call; more would only cost memory
BATCH_ELEMENTS = 2**16  # of the predictions of one call: 4 latents of 512 pixels


def batch_size(options: RunOptions, manifest: Manifest) -> int:
    """Return the number of samples in a batch. It is limited by the size of the network's output, which for tokens is
    the size of the logits."""
    if any(size.axis is None for size in manifest.sizes):  # texts of several lengths
        return 1
    elements = prod(map(int, output_shape(manifest, manifest.x_shape)))
    return max(1, min(options.count, BATCH, BATCH_ELEMENTS // elements))
