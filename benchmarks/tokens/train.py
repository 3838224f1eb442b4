"""Train an example of tokens on a CPU: `python benchmarks/tokens/train.py NAME --work DIR [--minutes 20]`.

The same command goes on where the last one stopped. The rest is `fewstep.models.training`.
"""

import argparse
import importlib
from dataclasses import asdict, replace
from pathlib import Path

import torch
from masked_transformer import Example, training_loss

from fewstep.models.training import train

NAMES = ("fashion_tokens", "action_tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint, the loss and the weights")
    parser.add_argument("--data", type=Path, help="folder of the data, where the recipe does not know it")
    parser.add_argument("--minutes", type=float, default=60, help="stop then, to go on another time")
    parser.add_argument("--steps", type=int, help="other than the recipe's")
    given = parser.parse_args()
    example: Example = importlib.import_module(given.name).EXAMPLE
    recipe = replace(example.recipe, steps=given.steps or example.recipe.steps)
    torch.manual_seed(recipe.seed)
    network, draw = example.network(given.data), example.draw(given.data, "train")
    arguments = argparse.Namespace(work=given.work, device="cpu", checkpoint_minutes=2, **asdict(recipe))
    train(network, training_loss(example, draw), arguments, f"{given.name}.safetensors", given.minutes)


if __name__ == "__main__":
    main()
