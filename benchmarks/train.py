"""Train a recipe of these rooms on a CPU: `python -m benchmarks.train zoo/dit_flow --work DIR [--minutes 20]`.

The same command goes on where the last one stopped, and leaves the averaged weights in DIR. The rest is
`fewstep.models.training`; `python -m benchmarks.card` puts what was trained beside its recipe.

A recipe is a file with `RECIPE` and `make()`, and `training(folder, split)`: the network before its training, and its
loss on a split of the data. One of the zoo has `SPEC`, `DATA` and `network()` in the place of `training`.
"""

import argparse
import importlib
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from benchmarks import options
from benchmarks.zoo.denoising import training_loss
from fewstep.models.training import Loss, train
from fewstep.plans.errors import UserError

FOLDER = Path(__file__).parent


def recipe_of(name: str) -> ModuleType:
    """The file ROOM/NAME.py as a module: it imports what lies beside it. UserError where there is none."""
    path = FOLDER / f"{name}.py"
    if not path.is_file():
        raise UserError(f"there is no recipe {name}", "name a file as zoo/dit_flow")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    return importlib.import_module(path.stem)


def training(recipe: ModuleType, folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """The network before its training, and its loss on "train" or "test" of the data of a folder; None is where the
    recipe looks."""
    if hasattr(recipe, "training"):
        own: tuple[nn.Module, Loss] = recipe.training(folder, split)
        return own
    draw = recipe.DATA.open(folder or recipe.DATA.folder, split)
    return recipe.network(), training_loss(recipe.SPEC, draw, recipe.RECIPE.batch)


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.add_argument("recipe", help="ROOM/NAME, as zoo/dit_flow")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint, the loss and the weights")
    parser.add_argument("--data", type=Path, help="folder of the data, where the recipe does not know it")
    parser.add_argument("--minutes", type=float, default=20, help="stop then, to go on another time")
    given = parser.parse_args()
    with options.refusing(parser):
        recipe = recipe_of(given.recipe)
    arguments = argparse.Namespace(work=given.work, device="cpu", checkpoint_minutes=2, **asdict(recipe.RECIPE))
    torch.manual_seed(recipe.RECIPE.seed)
    network, loss = training(recipe, given.data, "train")
    train(network, loss, arguments, f"{recipe.__name__}.safetensors", given.minutes)


if __name__ == "__main__":
    main()
