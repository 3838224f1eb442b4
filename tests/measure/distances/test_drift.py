"""Statistics of samples beside those of references, against values that can be worked out."""

import numpy as np
import pytest

from fewstep.measure.distances.drift import BANDS, Moments, drift


def moments(samples, cuts=1):
    made = Moments()
    for part in np.array_split(samples, cuts):
        made.add(part)
    return made


def drift_of(samples, references):
    return drift(moments(samples), moments(references))


def test_drift_of_equal_samples_is_neutral():
    images = np.random.default_rng(4).normal(size=(8, 1, 16, 16))
    same = drift_of(images, images)
    assert (same.mean, same.energy, same.detail, same.saturation) == (0, 1, 1, 0)


def test_drift_tells_shift_gain_and_blur_apart():
    images = np.random.default_rng(5).normal(size=(8, 1, 16, 16)) * 0.3
    shifted = drift_of(images + 0.1, images)
    assert (shifted.mean, shifted.energy, shifted.detail) == pytest.approx((0.1, 1, 1))
    assert drift_of(2 * images, images).energy == pytest.approx(4)
    shifts = [(0, 0), (0, 1), (1, 0), (1, 1)]
    blurred = np.mean([np.roll(images, shift, (-2, -1)) for shift in shifts], axis=0)
    soft = drift_of(blurred, images)
    assert soft.detail < soft.energy < 0.3 and soft.mean == pytest.approx(0)


def test_drift_of_action_chunks_has_no_detail_to_lose():
    chunk = np.random.default_rng(6).normal(size=(4, 16, 2))
    assert drift_of(0.5 * chunk, chunk).detail == 1.0


def test_moments_are_those_of_numpy_however_the_stream_is_cut():
    images = np.random.default_rng(7).normal(size=(7, 3, 8, 8)) + np.array([0, 1, -2])[:, None, None]
    for cuts in (1, 3, 7):
        own = moments(images, cuts)
        assert own.mean == pytest.approx(images.mean()) and own.variance == pytest.approx(images.var())
        assert own.means == pytest.approx(images.mean(axis=(0, 2, 3)))
        assert own.variances == pytest.approx(images.var(axis=(0, 2, 3)))
        assert own.saturated == pytest.approx((np.abs(images) > 1).mean())
        assert own.energies == pytest.approx(moments(images).energies)


def test_energies_of_all_bands_are_the_variance_of_each_image():
    images = np.random.default_rng(8).normal(size=(5, 1, 12, 10))  # Parseval, without the mean
    about_own_mean = np.square(images - images.mean(axis=(2, 3), keepdims=True)).sum()
    assert moments(images).energies.sum() == pytest.approx(about_own_mean)


def test_a_wave_is_in_the_band_of_its_frequency():
    columns = np.arange(32)
    for cycles, band in ((1, 0), (2, 0), (3, 1), (8, 3), (9, 4), (16, 7)):  # a band is 2 of 32 cycles wide
        wave = np.broadcast_to(np.cos(2 * np.pi * cycles * columns / 32), (1, 1, 32, 32))
        assert int(np.argmax(moments(wave).energies)) == band


def test_a_blur_is_seen_in_the_fine_bands_and_a_shift_in_its_channel():
    images = np.random.default_rng(9).normal(size=(8, 3, 32, 32))
    blurred = (images + np.roll(images, 1, axis=-1) + np.roll(images, 1, axis=-2)) / 3
    spectrum = drift_of(blurred, images).spectrum
    assert len(spectrum) == BANDS and spectrum[0] > 0.9 and spectrum[-1] < 0.3
    changed = images * np.array([1, 1, 2])[:, None, None] + np.array([0, 0.5, 0])[:, None, None]
    channels = drift_of(changed, images).channels
    assert [channel.mean for channel in channels[:2]] == pytest.approx([0, 0.5])
    assert [channel.std for channel in channels] == pytest.approx([1, 1, 2])
