"""Train a denoiser of this folder on a CPU: `python benchmarks/zoo/train.py NAME --work DIR [--minutes 20]`.

The same command goes on where the last one stopped. The rest is `fewstep.models.training`; `card.py` puts what was
trained beside its recipe.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from denoising import training_loss
from members import Member

from fewstep.models.training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of a file beside this one, without .py")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint, the loss and the weights")
    parser.add_argument("--data", type=Path, help="folder of the data, where the recipe does not know it")
    parser.add_argument("--minutes", type=float, default=20, help="stop then, to go on another time")
    given = parser.parse_args()
    recipe = Member(given.name, "").recipe()
    draw = recipe.DATA.open(given.data or recipe.DATA.folder, "train")
    arguments = argparse.Namespace(work=given.work, device="cpu", checkpoint_minutes=2, **asdict(recipe.RECIPE))
    torch.manual_seed(recipe.RECIPE.seed)
    network = recipe.network()
    loss = training_loss(recipe.SPEC, draw, recipe.RECIPE.batch)
    train(network, loss, arguments, f"{given.name}.safetensors", given.minutes)


if __name__ == "__main__":
    main()
