"""Put a trained member beside its recipe: `python benchmarks/zoo/card.py NAME --work DIR [--data DIR]`.

Copies the weights that train.py wrote, and writes NAME.md and NAME.png (samples along the member's own plan, made by
the exported bundle), so that no figure of the card is typed in by hand.
"""

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch
from denoising import Draw, loss_of
from members import BY_NAME, FOLDER, Member
from torch import Tensor

from benchmarks.shipped.cards import read_losses, write_samples
from fewstep.export.export import ExportOptions, export
from fewstep.models.training import EMA_DECAY
from fewstep.rollouts.held_out import held_out_conditions
from fewstep.runtime import load

SAMPLES, COLUMNS = 40, 10
HELD_OUT = 1_024  # samples of the test split


def samples(member: Member, recipe: ModuleType) -> Tensor:
    """Pictures of the first held-out seeds along the member's plan: classes in columns, where there are any."""
    seeds = range(SAMPLES)
    with TemporaryDirectory() as folder:
        export(ExportOptions(member.source, Path(folder) / "bundle"))
        with load(Path(folder) / "bundle") as sampler:
            condition = held_out_conditions(sampler.bundle.manifest.conditions, seeds, member.rows(SAMPLES, 0))
            x = torch.from_numpy(sampler.sample(member.plan, seeds, condition, member.guidance))
    show = getattr(recipe, "show", lambda images, _: images)
    return show(x, tuple(torch.from_numpy(value) for value in condition.values()))


@torch.no_grad()
def held_out_loss(recipe: ModuleType, draw: Draw) -> float:
    network, spec = recipe.make()
    return float(loss_of(spec, network, draw, HELD_OUT, torch.Generator().manual_seed(1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=BY_NAME)
    parser.add_argument("--work", type=Path, required=True, help="the folder that train.py wrote")
    parser.add_argument("--data", type=Path, help="folder of the data, where the recipe does not know it")
    given = parser.parse_args()
    member = BY_NAME[given.name]
    recipe = member.recipe()
    weights = FOLDER / f"{member.name}.safetensors"
    shutil.copyfile(given.work / weights.name, weights)
    checkpoint = torch.load(given.work / "checkpoint.pt", weights_only=True)
    arguments, losses = checkpoint["arguments"], read_losses(given.work)
    draw = recipe.DATA.open(given.data or recipe.DATA.folder, "test")
    write_samples(samples(member, recipe), COLUMNS, FOLDER / f"{member.name}.png")
    parameters = sum(tensor.numel() for tensor in recipe.network().parameters())
    guidance = "no guidance" if member.guidance == 1 else f"guidance {member.guidance:g}"
    kind, shape = recipe.SPEC.schedule.kind, " x ".join(map(str, recipe.SPEC.x_shape))
    (FOLDER / f"{member.name}.md").write_text(f"""# {member.name}

{(recipe.__doc__ or "").strip()}

It exists to measure calibration on; it has no other use.

| | |
|---|---|
| x | {shape} |
| prediction, schedule | {recipe.SPEC.prediction}, {kind} |
| data | {recipe.DATA.description} |
| parameters | {parameters:,} |
| command | `python benchmarks/zoo/train.py {member.name} --work FOLDER` |
| optimizer | AdamW, batch {arguments["batch"]}, peak learning rate {arguments["rate"]:g}, EMA {EMA_DECAY:g} |
| seed | {arguments["seed"]} |
| steps | {checkpoint["step"]} of {arguments["steps"]} |
| arithmetic, time | bfloat16 autocast on one core of a CPU, {checkpoint["seconds"]:.0f} s |
| first, last training loss | {losses[0][1]:.4f}, {losses[-1][1]:.4f} (means of the first and the last steps) |
| held-out loss | {held_out_loss(recipe, draw):.4f} ({HELD_OUT} test samples, averaged weights as stored) |
| weights | `{weights.name}`, averaged, float16, {weights.stat().st_size / 1e6:.2f} MB |

![samples]({member.name}.png)

Not selected: the first {SAMPLES} held-out seeds along `{member.plan}`, {guidance}.

`python benchmarks/zoo/card.py {member.name} --work FOLDER` wrote this page.
""")


if __name__ == "__main__":
    main()
