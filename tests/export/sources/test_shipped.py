"""The denoisers that come with fewstep: what each is, and what is said where its weights are missing."""

import logging
from importlib import import_module
from pathlib import Path

import pytest

from fewstep.export.export import load_source
from fewstep.export.sources.shipped import cifar10, fashion_mnist, load_shipped
from fewstep.plans.errors import UserError


@pytest.mark.parametrize("make", [fashion_mnist, cifar10], ids=lambda make: make.__name__)
def test_missing_weights_are_one_line(make, monkeypatch: pytest.MonkeyPatch) -> None:
    network = import_module(f"fewstep.models.{make.__name__}.unet")
    monkeypatch.setattr(network, "WEIGHTS", "gone.safetensors")
    with pytest.raises(UserError, match=r"weights gone\.safetensors are not installed; pip install -e .* in a clone"):
        make()


def test_each_has_its_classes_and_a_number_for_none() -> None:
    for source, x_shape in ((fashion_mnist(), (1, 28, 28)), (cifar10(), (3, 32, 32))):
        (condition,) = source.spec.conditions
        assert source.spec.x_shape == x_shape and len(condition.labels) == 10
        assert (condition.low, condition.high, condition.null) == (0, 9, 10)
    assert fashion_mnist().sha256 != cifar10().sha256


def test_an_unknown_one_names_those_that_there_are() -> None:
    with pytest.raises(UserError, match="or one of fashion_mnist, cifar10$"):
        load_shipped("celeba")


def test_the_name_of_a_shipped_one_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()  # as of an export to a folder of that name
    with caplog.at_level(logging.WARNING, "fewstep"):
        assert load_source("cifar10").sha256 == cifar10().sha256 and not caplog.records
    (tmp_path / "cifar10" / "config.json").write_text("{}")
    with caplog.at_level(logging.WARNING, "fewstep"):
        assert load_source("cifar10").sha256 == cifar10().sha256
    assert caplog.messages == ["cifar10 is the shipped model; the folder of that name is ./cifar10"]
    with pytest.raises(UserError, match="config.json|model_index.json"):
        load_source("./cifar10")
