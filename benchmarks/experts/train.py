"""Train the small network for high noise on a CPU: `python benchmarks/experts/train.py --work DIR [--minutes 40]`.

The same command goes on where the last one stopped, and leaves the weights in DIR.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import small
import torch

from fewstep.models.training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint, the loss and the weights")
    parser.add_argument("--minutes", type=float, default=40, help="stop then, to go on another time")
    given = parser.parse_args()
    arguments = argparse.Namespace(work=given.work, device="cpu", checkpoint_minutes=2, **asdict(small.RECIPE))
    torch.manual_seed(small.RECIPE.seed)
    train(small.network(), small.teaching(), arguments, "small.safetensors", given.minutes)


if __name__ == "__main__":
    main()
