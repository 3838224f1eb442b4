"""Runs that compose: tiles of a large sample.

A run is a value: its plan, the rows of its state and its draws. Each module here is a function of a sampler and a plan,
over `steps`, `tail` and `draws`. Plain sampling needs none of them.
"""

from fewstep.runtime.runs.tiled_images import decode_tiles
from fewstep.runtime.runs.tiles import Tiles, sample_tiles, tiled_steps

__all__ = ["Tiles", "decode_tiles", "sample_tiles", "tiled_steps"]
