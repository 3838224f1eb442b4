"""Features of sampled sound."""

import numpy as np
import pytest

from lab.sound_distances import BANDS, FLOOR, band_energies
from lab.train import recipe_of


def test_a_band_has_the_energy_of_its_coefficients() -> None:
    """A coefficient of amplitude 10 in the lowest bin of each frame, compressed as the recipe does, is 20 dB in the
    lowest band of both frames of a vector."""
    sound = recipe_of("zoo/sound").SPEC.spectrogram
    x = np.zeros((1, 2, sound.bins, 5), np.float32)
    x[:, 1, 0] = sound.factor * 10**sound.exponent
    levels = band_energies(x)
    assert levels.shape == (1, 3, 2 * BANDS)
    assert levels[..., [0, BANDS]] == pytest.approx(20, abs=1e-3)
    assert np.delete(levels, [0, BANDS], axis=2) == pytest.approx(10 * np.log10(FLOOR))
