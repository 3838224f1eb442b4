"""Train the speech-like denoiser on a CPU: `python benchmarks/streaming/train.py --work DIR [--minutes 25]`.

The same command goes on where the last one stopped, and leaves the weights in DIR.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import speech
import torch

from fewstep.models.training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint, the loss and the weights")
    parser.add_argument("--minutes", type=float, default=25, help="stop then, to go on another time")
    given = parser.parse_args()
    arguments = argparse.Namespace(work=given.work, device="cpu", checkpoint_minutes=2, **asdict(speech.RECIPE))
    torch.manual_seed(speech.RECIPE.seed)
    train(speech.Speech(), speech.loss, arguments, "speech.safetensors", given.minutes)


if __name__ == "__main__":
    main()
