"""Composed runs: a large sample in tiles.

A run is a value: its plan, the rows of its state and its draws. The functions here take a sampler and a plan, and use
`steps`, `tail` and `draws`. Plain sampling needs none of them.
"""

from fewstep.runtime.runs.tiled_images import decode_tiles
from fewstep.runtime.runs.tiles import Tiles, sample_tiles, tiled_steps

__all__ = ["Tiles", "decode_tiles", "sample_tiles", "tiled_steps"]
