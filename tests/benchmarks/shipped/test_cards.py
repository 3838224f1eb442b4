"""benchmarks/shipped/card.py: the table of a training run, in the cards of shipped denoisers."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.markdown import part_of
from benchmarks.shipped import card
from fewstep.export.sources.shipped import fashion_mnist

ROOT = Path(__file__).parents[3]
IMAGES, LABELS = np.zeros((128, 28, 28), np.uint8), np.zeros(128, np.uint8)


def test_a_card_has_the_figures_of_its_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(card, "data_of", lambda name: SimpleNamespace(read=lambda *given: (IMAGES, LABELS)))
    monkeypatch.setattr(card, "HELD_OUT", card.AT_ONCE)
    arguments = {"batch": 64, "rate": 6e-4, "seed": 0, "steps": 20}
    torch.save({"arguments": arguments, "step": 10}, tmp_path / "checkpoint.pt")
    (tmp_path / "loss.csv").write_text("step,loss\n5,0.5\n10,0.25\n")
    (tmp_path / "fashion_mnist.safetensors").write_bytes(b"0" * 20_000)
    rows = dict(
        line.strip("| ").split(" | ", 1)
        for line in card.run_table("fashion_mnist", fashion_mnist(), tmp_path, tmp_path).splitlines()[2:]
    )
    assert rows["parameters"] == "3.84 M" and rows["steps"] == "10 of 20 (5.0 passes over the data)"
    assert rows["last training loss"].startswith("0.2500 ") and rows["weights"].endswith(", 0.02 MB")
    assert 0 < float(rows["held-out loss"].split()[0]) < 0.5  # black pictures are easy
    for name in card.TEST:
        page = (ROOT / "models" / name / "card.md").read_text()
        assert [line.split(" | ")[0] for line in part_of(page, card.SCRIPT).splitlines()[2:]] == [
            f"| {n}" for n in rows
        ]
