"""The options of `fewstep bake` that a saved choice sets."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fewstep.cli import bake_options
from fewstep.cli.bake_options import BakeCommandOptions, complete_options
from fewstep.plans.shaping import UNCLIPPED, Clip, Rescale, Shaping
from tests.refusals import refuses


def choose_with(shaping: Shaping | None, monkeypatch: pytest.MonkeyPatch, memory: str | None = None) -> None:
    winner = SimpleNamespace(plan="ddim:2", body="float32")
    choice = SimpleNamespace(winner=winner, memory=memory, settings={"guidance": 2.0, "shaping": shaping})
    monkeypatch.setattr(bake_options, "load_choice", lambda path: choice)


@pytest.mark.parametrize(
    ("shaping", "clip"), [(None, None), (Clip(-1.5, 1.5), 1.5), (UNCLIPPED, float("inf"))], ids=str
)
def test_a_choice_is_baked_with_its_clip(
    shaping: Shaping | None, clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_with(shaping, monkeypatch)
    found = complete_options(BakeCommandOptions(bundle=Path("b"), output=Path("x.onnx"), chosen=True))
    assert (found.clip, found.guidance, found.body) == (clip, 2.0, "float32")


@pytest.mark.parametrize("shaping", [Clip(-1.0, 2.0), Rescale(0.5)], ids=str)
def test_a_choice_whose_shaping_is_no_option_is_refused(shaping: Shaping, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_with(shaping, monkeypatch)
    with refuses("has no option for", "--plan FILE.json"):
        complete_options(BakeCommandOptions(bundle=Path("b"), output=Path("x.onnx"), chosen=True))


def test_a_choice_for_a_budget_of_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    choose_with(None, monkeypatch, "2GB")
    with refuses(("2GB", "a baked file keeps all networks in memory"), "choose without --memory"):
        complete_options(BakeCommandOptions(bundle=Path("b"), output=Path("x.onnx"), chosen=True))
