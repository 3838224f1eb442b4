"""The loop that trains every reference denoiser: its draws, its end, and how it resumes after a kill."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fewstep.models import training
from fewstep.models.cifar10 import unet as cifar10
from fewstep.models.fashion_mnist import unet as fashion_mnist
from fewstep.models.training import (
    NULL_FRACTION,
    Recipe,
    drop_labels,
    generator_of,
    learning_rate,
    train,
    write_atomically,
)

RECIPE = Recipe(steps=30, batch=4, rate=0.05, seed=0)


def line():
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def loss(network, generator):
    x = torch.rand(4, 1, generator=generator)
    return (network(x).float() - (2 * x + 1)).square().mean()


@pytest.mark.parametrize(("unet", "most"), [(cifar10, 16_000_000), (fashion_mnist, 8_000_000)])
def test_shipped_weights_are_small_float16_and_finite(unet, most):
    path = Path(unet.__file__).resolve().with_name(unet.WEIGHTS)  # of the clone: a wheel lacks those of cifar10
    assert path.stat().st_size <= most
    assert all(tensor.dtype == torch.float16 and tensor.isfinite().all() for tensor in load_file(path).values())


def test_learning_rate_warms_up_holds_and_falls_to_zero():
    rates = [learning_rate(step, 10_000, 1.0) for step in (0, 199, 5_000, 8_000, 9_000, 10_000)]
    assert rates == pytest.approx([1 / 200, 1, 1, 1, 0.5, 0])


def test_a_step_draws_the_same_after_a_restart_and_another_one_by_another_seed():
    first, again, other = (torch.rand(3, generator=generator_of(seed, 7)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_one_label_in_ten_is_dropped():
    labels = drop_labels(torch.zeros(20_000, dtype=torch.long), 10, generator_of(0, 0))
    assert (labels == 10).float().mean().item() == pytest.approx(NULL_FRACTION, abs=0.01)
    assert set(labels.tolist()) == {0, 10}


def test_weights_are_rounded_and_buffers_are_not(tmp_path):
    network = line()
    network.register_buffer("books", torch.tensor([1 / 3]))
    train(network, loss, replace(RECIPE, steps=1), tmp_path, "w.safetensors")
    stored = load_file(tmp_path / "w.safetensors")
    assert stored["weight"].dtype == torch.float16 and torch.equal(stored["books"], torch.tensor([1 / 3]))


def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path, capsys, monkeypatch):
    train(line(), loss, RECIPE, tmp_path / "whole", "w.safetensors")

    class Stopped(Exception): ...

    def stopping(network, generator):
        stopping.calls += 1
        if stopping.calls > 12:
            raise Stopped
        return loss(network, generator)

    stopping.calls = 0
    monkeypatch.setattr(training, "CHECKPOINT_MINUTES", 0)  # a checkpoint after every step
    with pytest.raises(Stopped):
        train(line(), stopping, RECIPE, tmp_path / "halves", "w.safetensors")
    train(line(), loss, RECIPE, tmp_path / "halves", "w.safetensors")
    assert "continuing from step 12" in capsys.readouterr().out
    whole, resumed = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "halves"))
    assert whole["step"] == resumed["step"] == 30
    for name in ("network", "average"):
        assert all(torch.equal(whole[name][key], resumed[name][key]) for key in whole[name])


def test_a_run_stops_when_its_time_is_over_and_goes_on_from_there(tmp_path):
    train(line(), loss, replace(RECIPE, steps=3), tmp_path / "whole", "w.safetensors")
    for done in (1, 2, 3, 3):  # no time at all still makes a step, so that it ends some day
        train(line(), loss, replace(RECIPE, steps=3), tmp_path / "pieces", "w.safetensors", minutes=0)
        checkpoint = torch.load(tmp_path / "pieces/checkpoint.pt", weights_only=True)
        assert checkpoint["step"] == done and checkpoint["seconds"] > 0
    whole = torch.load(tmp_path / "whole/checkpoint.pt", weights_only=True)
    assert all(torch.equal(whole["average"][key], checkpoint["average"][key]) for key in whole["average"])


def test_the_averaged_weights_are_written_as_float16(tmp_path):
    train(line(), loss, RECIPE, tmp_path, "w.safetensors")
    tensors = load_file(tmp_path / "w.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    average = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["average"]
    assert torch.equal(tensors["weight"], average["weight"].half())
    assert (tmp_path / "loss.csv").read_text().splitlines()[0] == "step,loss"


def test_a_failed_write_leaves_the_previous_file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_text("whole")

    def half(draft):
        draft.write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert path.read_text() == "whole"
