"""Store trained weights and their card: `python -m lab.model_card zoo/dit_flow --work DIR [--data DIR]`.

It copies the weights that `lab.train` wrote, and writes the figures of the run into a page NAME.md in the folder of the
recipe, or into the table in the card of a shipped denoiser, whose other text does not change. For members of the zoo
and shipped denoisers, it also samples the exported bundle along their plan.
"""

import csv
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import nn

from benchmarks import options
from benchmarks.markdown import put_part, table
from fewstep.export import Spec
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.measure.rollouts.seeds import held_out_conditions
from fewstep.models.training import EMA_DECAY, generator_of
from fewstep.models.weights import load_weights
from fewstep.report.drawing.pictures import draw_grid, encode_png
from fewstep.report.drawing.plan_plot import stack_drawings
from fewstep.report.drawing.plots import Series, line_plot
from fewstep.runtime import load
from lab.train import recipe_of, training, weights_of
from zoo.members import BY_NAME, SHIPPED, Member

SCRIPT = "lab.model_card"
SAMPLES, COLUMNS, SCALE = 40, 10, 2
SPECTROGRAMS, SHADES = ("sound", "speech_ncsn"), 16  # members whose samples are spectrograms; greys of their pictures
HELD_OUT = 1_024  # number of samples of the test split
MEMBERS = BY_NAME | {member.name: member for member in SHIPPED}


def samples(member: Member) -> NDArray[np.floating]:
    """Return images of the first held-out seeds along the member's plan, with one column for each class, if it has
    classes."""
    seeds = range(SAMPLES)
    with TemporaryDirectory() as folder:
        export(ExportOptions(member.source, Path(folder) / "bundle", verify="quick"))
        with load(Path(folder) / "bundle") as sampler:
            condition = held_out_conditions(sampler.bundle.manifest, seeds, member.rows(SAMPLES, 0))
            x = sampler.sample(member.plan, seeds, condition, member.guidance)
    show = None if member in SHIPPED else getattr(member.recipe(), "show", None)
    if show is None:
        return x
    shown: NDArray[np.floating] = show(torch.from_numpy(x), tuple(map(torch.from_numpy, condition.values()))).numpy()
    return shown


def load_trained(recipe: ModuleType, weights: Path) -> nn.Module:
    """Return the network that was trained. A recipe may export only a part of it."""
    if not hasattr(recipe, "make"):
        return load_weights(recipe.UNet(), weights)
    network: nn.Module = recipe.trained() if hasattr(recipe, "trained") else recipe.make()[0]
    return network.eval()


@torch.no_grad()
def held_out_loss(network: nn.Module, recipe: ModuleType, folder: Path | None) -> float:
    """Return the loss on the test split, for the averaged weights as they are stored."""
    _, loss = training(recipe, folder, "test")
    batches = range(HELD_OUT // recipe.RECIPE.batch)
    return sum(loss(network, generator_of(1, batch)).item() for batch in batches) / len(batches)


def shape_of(spec: Spec) -> str:
    shape = " x ".join(map(str, spec.x_shape))
    return shape if spec.vocabulary is None else f"{shape} of {spec.vocabulary.mask} ids"


def command(script: str, name: str, data: Path | None) -> str:
    """Return a command without the user's folders."""
    return f"`python -m lab.{script} {name} --work FOLDER{'' if data is None else ' --data DATA'}`"


def losses(work: Path) -> list[tuple[int, float]]:
    """Return pairs of step and mean loss, as written by the training."""
    with (work / "loss.csv").open() as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


def facts(recipe: ModuleType) -> list[tuple[str, str]]:
    """Return the facts that are known before the training, for recipes in this folder. Other cards have them in their
    text."""
    if not hasattr(recipe, "SPEC"):
        return []
    spec = recipe.SPEC
    data = [("data", recipe.DATA.description)] if hasattr(recipe, "DATA") else []
    return [("x", shape_of(spec)), ("prediction, schedule", f"{spec.prediction}, {spec.schedule.kind}"), *data]


def run_table(name: str, recipe: ModuleType, work: Path, folder: Path | None, weights: Path) -> str:
    """Return a table with the facts of a training run."""
    run, seen = torch.load(work / "checkpoint.pt", weights_only=True), losses(work)
    network, how = load_trained(recipe, weights), run["recipe"]
    where = f"one {run['device']}" if run.get("device", "CPU") != "CPU" else "one core of a CPU"
    held_out = held_out_loss(network, recipe, folder)
    rows = [
        *facts(recipe),
        ("parameters", f"{sum(parameter.numel() for parameter in network.parameters()):,}"),
        ("command", command("train", name, folder)),
        ("optimizer", f"AdamW, batch {how['batch']}, peak learning rate {how['rate']:g}, EMA {EMA_DECAY:g}"),
        ("seed", str(how["seed"])),
        ("steps", f"{run['step']} of {how['steps']}"),
        ("arithmetic, time", f"bfloat16 autocast on {where}, {run['seconds']:.0f} s"),
        ("first, last training loss", f"{seen[0][1]:.4f}, {seen[-1][1]:.4f} (means of the first and last steps)"),
        ("held-out loss", f"{held_out:.4f} ({HELD_OUT} test samples, averaged weights as stored)"),
        ("weights", f"`{weights.name}`, averaged, float16, {weights.stat().st_size / 1e6:.2f} MB"),
    ]
    return table(("", ""), rows)


def page(recipe: ModuleType, measured: str, member: Member | None, written_by: str) -> str:
    """Return the page of a recipe of this folder."""
    parts = [f"# {recipe.__name__}", (recipe.__doc__ or "").strip(), measured]
    if member is not None:
        guidance = "no guidance" if member.guidance is None else f"guidance {member.guidance:g}"
        said = f"Not selected: the first {SAMPLES} held-out seeds along `{member.plan}`, {guidance}."
        use = "It exists to measure calibration on; it has no other use."
        parts = [*parts[:2], use, *parts[2:], f"![samples]({member.name}.png)", said]
    return "\n\n".join([*parts, f"{written_by} wrote this page.", ""])


def _reduce_shades(member: Member, image: Image) -> Image:
    """Return the grid with fewer greys if its samples are spectrograms, whose noise takes most of the file."""
    if member.name not in SPECTROGRAMS:
        return image
    return image.point(lambda value: round(round(value * (SHADES - 1) / 255) * 255 / (SHADES - 1)))


def main() -> None:
    parser = options.parser_of(__doc__)
    options.add_recipe(parser)
    given = parser.parse_args()
    with options.refusing(parser):
        recipe = recipe_of(given.recipe)
    weights = weights_of(given.recipe)
    shutil.copyfile(given.work / weights.name, weights)
    measured = run_table(given.recipe, recipe, given.work, given.data, weights)
    member, home = MEMBERS.get(weights.stem), weights.parent
    picture = None if member is None else encode_png(_reduce_shades(member, draw_grid(samples(member), COLUMNS, SCALE)))
    if member in SHIPPED:
        put_part(home / "card.md", SCRIPT, measured)
        steps, means = zip(*losses(given.work), strict=True)
        (home / "loss.svg").write_text(
            stack_drawings("training", [line_plot([Series("loss", steps, means)], "step", "loss")])
        )
    else:
        written_by = command("model_card", given.recipe, given.data)
        weights.with_suffix(".md").write_text(page(recipe, measured, member, written_by))
    if picture is not None:
        (home / "samples.png" if member in SHIPPED else weights.with_suffix(".png")).write_bytes(picture)


if __name__ == "__main__":
    main()
