"""Metrics against values that can be worked out on paper."""

import numpy as np
import pytest

from fewstep.calibration.metrics import CEILING, Energies, drift, psnr, sqnr


def test_psnr_of_a_constant_error_is_known():
    references = np.zeros((2, 1, 4, 4), np.float32)
    samples = references + np.array([0.02, 0.2], np.float32)[:, None, None, None]
    assert psnr(samples, references) == pytest.approx([40.0, 20.0], abs=1e-5)  # 20 log10(2 / error)


def test_psnr_is_taken_before_clamping():
    references = np.full((1, 1, 2, 2), 1.5)
    assert psnr(np.full((1, 1, 2, 2), 1.7), references) == pytest.approx([20.0])


def test_psnr_of_equal_samples_is_the_ceiling_so_that_means_stay_finite():
    same = np.random.default_rng(0).normal(size=(3, 1, 4, 4))
    assert psnr(same, same).tolist() == [CEILING] * 3


def test_psnr_refuses_to_broadcast():
    with pytest.raises(ValueError, match="one shape"):
        psnr(np.zeros((2, 1, 4, 4)), np.zeros((1, 1, 4, 4)))


def test_a_nan_is_not_hidden():
    samples = np.zeros((2, 1, 2, 2))
    samples[1, 0, 0, 0] = np.nan
    assert np.isnan(psnr(samples, np.zeros_like(samples))).tolist() == [False, True]


def test_sqnr_of_proportional_noise_is_known():
    signal = np.random.default_rng(1).normal(size=(4, 3, 8, 8))
    assert sqnr(1.1 * signal, signal) == pytest.approx(20.0)


def test_sqnr_of_a_uniform_quantizer_is_six_decibels_a_bit():
    signal = np.random.default_rng(2).uniform(-1, 1, 200_000)
    step = 2 / 256
    quantized = (np.floor(signal / step) + 0.5) * step
    assert sqnr(quantized, signal) == pytest.approx(8 * 20 * np.log10(2), abs=0.05)


def test_sqnr_does_not_depend_on_how_the_stream_is_cut():
    rng = np.random.default_rng(3)
    signal, noise = rng.normal(size=(6, 2, 4, 4)), rng.normal(size=(6, 2, 4, 4)) * 0.1
    energies = Energies()
    for cut in (slice(0, 1), slice(1, 4), slice(4, 6)):
        energies.add((signal + noise)[cut], signal[cut])
    assert energies.sqnr == pytest.approx(sqnr(signal + noise, signal))


def test_drift_of_equal_samples_is_neutral():
    images = np.random.default_rng(4).normal(size=(8, 1, 16, 16))
    same = drift(images, images)
    assert (same.mean, same.energy, same.detail, same.saturation) == (0, 1, 1, 0)


def test_drift_tells_shift_gain_and_blur_apart():
    images = np.random.default_rng(5).normal(size=(8, 1, 16, 16)) * 0.3
    shifted = drift(images + 0.1, images)
    assert (shifted.mean, shifted.energy, shifted.detail) == pytest.approx((0.1, 1, 1))
    assert drift(2 * images, images).energy == pytest.approx(4)
    shifts = [(0, 0), (0, 1), (1, 0), (1, 1)]
    blurred = np.mean([np.roll(images, shift, (-2, -1)) for shift in shifts], axis=0)
    soft = drift(blurred, images)
    assert soft.detail < soft.energy < 0.3 and soft.mean == pytest.approx(0)


def test_drift_of_action_chunks_has_no_detail_to_lose():
    chunk = np.random.default_rng(6).normal(size=(4, 16, 2))
    assert drift(0.5 * chunk, chunk).detail == 1.0
