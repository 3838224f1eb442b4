"""Restore a picture that is larger than the network's, in windows that move at each step.

    python docs/examples/large_restoration.py BUNDLE degraded.npy restored.npy

The bundle is one of restoration.py. degraded.npy is a picture [C, H, W] in model range, at least as large as the
network's. It is a condition of the network, and is cut into windows like x.
"""

import sys

import numpy as np

from fewstep.runtime import UserError, load
from fewstep.runtime.machine.memory import peak_bytes
from fewstep.runtime.runs import Tiles, sample_tiles


def main(bundle: str, degraded_file: str, restored_file: str, plan: str = "resshift:4") -> None:
    y = np.load(degraded_file)[None]
    with load(bundle) as sampler:
        window = sampler.bundle.manifest.x_shape
        tiles = Tiles(overlap=window[-1] // 4, moves=True)
        restored = sample_tiles(sampler, sampler.compile(plan), y.shape[1:], tiles, [0], condition={"y": y})
    np.save(restored_file, restored[0])
    most = peak_bytes()
    memory = f"peak memory {'unknown' if most is None else f'{most >> 20} MiB'}"
    print(f"{list(y.shape[1:])} in windows of {list(window)}, {memory}")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit("usage: python docs/examples/large_restoration.py BUNDLE degraded.npy restored.npy [PLAN]")
    try:
        main(*sys.argv[1:])
    except (OSError, UserError) as error:
        sys.exit(f"large_restoration: {error}")
