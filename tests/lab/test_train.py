"""lab/train.py and model_card.py: recipes are trained by one command, and get a card."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.markdown import part_of
from fewstep.models.fashion_mnist import unet
from fewstep.models.fashion_mnist.data import DEBIAN_FOLDER
from fewstep.models.training import generator_of
from lab import model_card, train
from tests.refusals import refuses
from zoo.members import BY_NAME, SHIPPED


@pytest.mark.parametrize("name", ["zoo/speech", "zoo/action_tokens", "zoo/policy_unet1d"])
def test_a_recipe_has_a_network_and_its_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    recipe = train.recipe_of(name)
    torch.manual_seed(recipe.RECIPE.seed)
    network, loss = train.training(recipe, None, "train")
    with torch.no_grad():
        assert loss(recipe.make()[0].eval(), generator_of(0, 0)) < 0.8 * loss(network.eval(), generator_of(0, 0))


def test_a_file_that_is_not_there_is_one_line() -> None:
    with refuses("zoo/other", "zoo/dit_flow"):
        train.recipe_of("zoo/other")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("zoo/dit_flow", "the loss of zoo/dit_flow is computed on a CPU; leave out --device cuda"),
        ("zoo/cifar10_dit", "torch finds no CUDA device; leave out --device cuda, or install torch for CUDA"),
    ],
)
def test_a_recipe_that_cannot_train_on_cuda_is_refused(
    recipe: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["train", recipe, "--work", str(tmp_path), "--device", "cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        train.main()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("zoo/action_tokens", ["| x | 2 x 16 of 128 ids |", "| prediction, schedule | logits, flow |"]),
        ("fashion_mnist", ["| parameters | 3,838,977 |"]),
    ],
)
def test_a_card_has_the_figures_of_its_run(
    name: str, facts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(model_card, "held_out_loss", lambda network, recipe, folder: 0.25)
    recipe = {"batch": 64, "rate": 6e-4, "seed": 0, "steps": 20}
    torch.save({"recipe": recipe, "step": 10, "seconds": 61.0}, tmp_path / "checkpoint.pt")
    (tmp_path / "loss.csv").write_text("step,loss\n5,0.5\n10,0.25\n")
    weights = train.weights_of(name)
    text = model_card.run_table(name, train.recipe_of(name), tmp_path, None, weights)
    for row in (
        *facts,
        f"| command | `python -m lab.train {name} --work FOLDER` |",
        "| steps | 10 of 20 |",
        "| first, last training loss | 0.5000, 0.2500 (means of the first and last steps) |",
        f"| weights | `{weights.name}`, averaged, float16, {weights.stat().st_size / 1e6:.2f} MB |",
    ):
        assert row in text


def test_cards_of_shipped_denoisers_have_a_place_for_it() -> None:
    for member in SHIPPED:
        shown = part_of((member.weights.parent / "card.md").read_text(), model_card.SCRIPT)
        assert f"| command | `python -m lab.train {member.name} --work FOLDER" in shown


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_a_shipped_recipe_is_that_of_the_shipped_weights() -> None:
    recipe = train.recipe_of("fashion_mnist")
    with torch.no_grad():
        network, (untrained, loss) = unet.load(), train.training(recipe, None, "test")
        assert loss(network, generator_of(1, 0)) < 0.2 < loss(untrained, generator_of(1, 0))


def test_pictures_of_spectrograms_have_few_greys() -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    greys = np.unique(model_card._reduce_shades(BY_NAME["speech_ncsn"], image))
    assert len(greys) == 16 and (greys[0], greys[-1]) == (0, 255)
    assert model_card._reduce_shades(BY_NAME["dit_flow"], image) is image
