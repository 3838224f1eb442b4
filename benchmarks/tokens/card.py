"""Put a trained example beside its recipe: `python benchmarks/tokens/card.py NAME --work DIR`.

Copies the weights that train.py wrote, and writes NAME.md, so that no figure of the card is typed in by hand.
"""

import argparse
import importlib
import shutil
from pathlib import Path

import torch
from masked_transformer import Example, training_loss
from train import NAMES

from benchmarks.shipped.cards import read_losses
from fewstep.models.training import EMA_DECAY, generator_of

FOLDER = Path(__file__).parent
HELD_OUT = 16  # batches of the test split


def held_out_loss(example: Example, folder: Path | None) -> float:
    """Nats an open token, of the averaged weights as they are stored."""
    network = importlib.import_module(example.spec.name).make()[0]
    loss = training_loss(example, example.draw(folder, "t10k"))
    with torch.no_grad():
        return sum(loss(network, generator_of(1, batch)).item() for batch in range(HELD_OUT)) / HELD_OUT


def card(example: Example, work: Path, held_out: float) -> str:
    """The page of an example, from its work folder."""
    run = torch.load(work / "checkpoint.pt", weights_only=True)
    losses, made = read_losses(work), run["arguments"]
    name, weights = example.spec.name, FOLDER / f"{example.spec.name}.safetensors"
    fell = max(0.0, run["step"] - 0.8 * made["steps"])
    rows = {
        "tokens": f"{' x '.join(map(str, example.spec.x_shape))} of {example.mask} ids",
        "parameters": f"{sum(each.numel() for each in importlib.import_module(name).make()[0].parameters()):,}",
        "command": f"`python benchmarks/tokens/train.py {name} --work FOLDER`",
        "optimizer": f"AdamW, batch {made['batch']}, peak learning rate {made['rate']:g}, EMA {EMA_DECAY}",
        "seed": f"{made['seed']}",
        "steps": f"{run['step']}; the learning rate {f'fell in the last {fell:.0f}' if fell else 'was constant'}",
        "arithmetic, time": f"bfloat16 autocast on one core of a loaded CPU, {run['seconds']:.0f} s of it",
        "first, last training loss": f"{losses[0][1]:.3f}, {losses[-1][1]:.3f} nats an open token",
        "held-out loss": f"{held_out:.3f} (averaged weights as stored)",
        "weights": f"`{weights.name}`, averaged, parameters in float16, {weights.stat().st_size / 1e6:.2f} MB",
    }
    lines = [f"# {name}", "", *_about(name), "", "| | |", "|---|---|", *(f"| {key} | {rows[key]} |" for key in rows)]
    return "\n".join([*lines, "", f"`python benchmarks/tokens/card.py {name} --work FOLDER` wrote this page.", ""])


def _about(name: str) -> list[str]:
    text = importlib.import_module(name).__doc__ or ""
    return text.partition("\n\n")[0].splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--work", type=Path, required=True, help="folder of the training")
    parser.add_argument("--data", type=Path, help="folder of the data, where the recipe does not know it")
    given = parser.parse_args()
    example: Example = importlib.import_module(given.name).EXAMPLE
    shutil.copy(given.work / f"{given.name}.safetensors", FOLDER)
    page = card(example, given.work, held_out_loss(example, given.data))
    (FOLDER / f"{given.name}.md").write_text(page)


if __name__ == "__main__":
    main()
