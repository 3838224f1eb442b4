"""Make pairs of noise and the shipped denoiser's sample for it: `python -m zoo.pairs --work DIR [--last 31]`.

The teacher is `fashion_mnist` as it ships in int8, along `PLAN` with guidance 2, which takes 12 rows of its network for
a sample. A file has `CHUNK` samples. Existing files are kept, so the same command continues an interrupted run, and two
processes may share the range.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewstep.models import ready
from fewstep.models.training import write_atomically
from fewstep.plans.noise import normal_batch
from fewstep.runtime import load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

PLAN, GUIDANCE = "fitted:6", 2.0
CHUNK, BATCH = 256, 32
TEST = 31  # the chunk that is not used for training
FIRST_SEED = 1_000_000  # first seeds of the pairs, and of calibration; lower seeds are for judging
SHAPE, CLASSES = (1, 28, 28), 10


def seeds_of(chunk: int) -> range:
    return range(FIRST_SEED + chunk * CHUNK, FIRST_SEED + (chunk + 1) * CHUNK)


def file_of(work: Path, chunk: int) -> Path:
    return work / f"pairs-{chunk:03}.npy"


def make(work: Path, chunks: range) -> None:
    """Write the samples of each chunk, float16 [CHUNK, 1, 28, 28]. The class of a seed is its last digit."""
    work.mkdir(parents=True, exist_ok=True)
    with load(ready.fashion_mnist(), "int8", backend=OnnxRuntime(threads=1)) as teacher:
        for chunk in chunks:
            if file_of(work, chunk).exists():
                continue
            seeds = seeds_of(chunk)
            batches = [seeds[first : first + BATCH] for first in range(0, CHUNK, BATCH)]
            samples = [teacher.sample(PLAN, batch, classes(batch), GUIDANCE) for batch in batches]
            stored = np.concatenate(samples).astype(np.float16)
            write_atomically(file_of(work, chunk), partial(store, samples=stored))
            print(f"chunk {chunk}", flush=True)


def store(path: Path, samples: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, samples)


def classes(seeds: Sequence[int]) -> dict[str, list[int]]:
    return {"class": [seed % CLASSES for seed in seeds]}


def read(work: Path, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return noise [N, 1, 28, 28], its samples [N, 1, 28, 28] and their classes [N] from the existing files, for
    "train", or for "test", which is the chunk `TEST`."""
    files = sorted(work.glob("pairs-*.npy"))
    files = [file for file in files if (file == file_of(work, TEST)) == (split == "test")]
    seeds = [seed for file in files for seed in seeds_of(int(file.stem.rpartition("-")[2]))]
    samples = np.concatenate([np.load(file) for file in files])
    noise = torch.from_numpy(normal_batch(seeds, 0, SHAPE))
    return noise, torch.from_numpy(samples).float(), torch.tensor(classes(seeds)["class"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the pairs")
    parser.add_argument("--first", type=int, default=0, help="chunk")
    parser.add_argument("--last", type=int, default=TEST, help="chunk that ends the range, and is made too")
    given = parser.parse_args()
    make(given.work, range(given.first, given.last + 1))


if __name__ == "__main__":
    main()
