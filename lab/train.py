"""Train a recipe of the zoo: `python -m lab.train zoo/dit_flow --work DIR [--minutes 20] [--device cuda]`.

The same command continues an interrupted run. It writes the averaged weights to DIR. The training loop is in
`fewstep.models.training`; `python -m lab.model_card` stores the trained weights and their card. A name without a folder
is a shipped denoiser, whose recipe is in the folder of its weights.

A recipe of the zoo is a file with `SPEC`, `DATA`, `RECIPE` and `make()` (zoo/denoising.py). Its loss follows from its
SPEC, unless it has `loss(draw, count)`. Its untrained network is that of `make`, unless it has `network()`. Other
recipes have `training(folder, split)`, which returns the untrained network and its loss on a split of the data. A
recipe whose batches and loss are computed on the generator's device sets `TRAINS_ON_CUDA = True`.
"""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from benchmarks import options
from fewstep.models.training import Loss, train
from fewstep.plans.errors import UserError
from zoo.denoising import training_loss
from zoo.members import SHIPPED

ROOT = Path(__file__).parents[1]


def recipe_of(name: str) -> ModuleType:
    """Import the file NAME.py below the root as a module, which may import modules of its folder. Raises UserError if
    there is none."""
    if name in {member.name for member in SHIPPED}:
        return importlib.import_module(f"fewstep.models.{name}.train")
    path = ROOT / f"{name}.py"
    if not path.is_file():
        raise UserError(f"there is no recipe {name}", "name a file such as zoo/dit_flow, or a shipped denoiser")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    return importlib.import_module(path.stem)


def weights_of(name: str) -> Path:
    """Return the path of a recipe's trained weights."""
    shipped = {member.name: member.weights for member in SHIPPED}
    return shipped.get(name, ROOT / f"{name}.safetensors")


def training(recipe: ModuleType, folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """Return the untrained network, and its loss on "train" or "test" of the data in a folder. A folder of None means
    the recipe's default."""
    if hasattr(recipe, "training"):
        own: tuple[nn.Module, Loss] = recipe.training(folder, split)
        return own
    network = recipe.network() if hasattr(recipe, "network") else recipe.make.network()
    draw, count = recipe.DATA.open(folder, split), recipe.RECIPE.batch
    return network, recipe.loss(draw, count) if hasattr(recipe, "loss") else training_loss(recipe.SPEC, draw, count)


def main() -> None:
    parser = options.parser_of(__doc__)
    options.add_recipe(parser)
    parser.add_argument(
        "--minutes", type=float, default=20, help="time limit; the same command continues (default %(default)s)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default %(default)s)")
    parser.add_argument("--steps", type=options.positive, help="steps of the whole run (default: the recipe's)")
    given = parser.parse_args()
    with options.refusing(parser):
        recipe = recipe_of(given.recipe)
        if given.device == "cuda" and not getattr(recipe, "TRAINS_ON_CUDA", False):
            raise UserError(f"the loss of {given.recipe} is computed on a CPU", "leave out --device cuda")
        if given.device == "cuda" and not torch.cuda.is_available():
            raise UserError("torch finds no CUDA device", "leave out --device cuda, or install torch for CUDA")
    settings = recipe.RECIPE if given.steps is None else replace(recipe.RECIPE, steps=given.steps)
    torch.manual_seed(settings.seed)
    network, loss = training(recipe, given.data, "train")
    train(network, loss, settings, given.work, weights_of(given.recipe).name, given.minutes, given.device)


if __name__ == "__main__":
    main()
