"""The transformer on spectrograms of recorded speech, and its data."""

from pathlib import Path

import numpy as np
import prompts
import pytest
import sound
import torch

from fewstep.plans.errors import UserError
from fewstep.runtime import spectrogram


def test_spectrograms_in_torch_equal_those_of_the_runtime() -> None:
    wave = np.random.default_rng(0).standard_normal((2, prompts.LENGTH)).astype(np.float32)
    encoded = prompts.encode(torch.from_numpy(wave)).numpy()
    assert encoded.shape == (2, *sound.SPEC.x_shape)
    assert np.abs(encoded - spectrogram.encode(prompts.SOUND, wave)).max() < 1e-4


def test_a_piece_is_of_its_language(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings of language n are tones at 500 * (n + 1) Hz, which are 16 * (n + 1) bins."""
    time = np.arange(prompts.LENGTH + 100) / prompts.SOUND.rate
    tones = [[(8000 * np.sin(2 * np.pi * 500 * (n + 1) * time)).astype(np.int16)] * 2 for n in range(3)]
    monkeypatch.setattr(prompts, "read_recordings", lambda folder, split: tones)
    batch = prompts.DATA.open(None, "train")(64, torch.Generator().manual_seed(0))
    loudest = batch.x0.norm(dim=1).mean(dim=2).argmax(dim=1)
    (languages,) = batch.conditions
    known = languages != prompts.NULL
    assert set(languages.tolist()) == {0, 1, 2, prompts.NULL}
    assert (loudest[known] - 16 * (languages[known] + 1)).abs().max() <= 1


def test_an_absent_language_is_refused_by_its_package(tmp_path: Path) -> None:
    pytest.importorskip("G722")
    with pytest.raises(UserError, match=r"no folder en_US_f_Allison in .*asterisk-core-sounds-en-g722"):
        prompts.read_recordings(tmp_path, "train")


def test_a_network_that_answers_nothing_returns_its_shift() -> None:
    network = sound.Network()
    with torch.no_grad():
        network.frame_out.bias[4 * sound.BINS :] = 0.5
        velocity = network(torch.randn(1, *sound.SPEC.x_shape), torch.tensor([500.0]), torch.tensor([0]))
    assert torch.equal(velocity, torch.full_like(velocity, 0.5))


def test_it_has_three_to_eight_million_weights() -> None:
    assert 3_000_000 < sum(parameter.numel() for parameter in sound.Network().parameters()) < 8_000_000
