"""Metrics against values that can be worked out on paper."""

import numpy as np
import pytest

from fewstep.measure.rollouts.metrics import CEILING, Floats, has_ssim, psnr, signal_and_noise_energy, sqnr, ssim


def test_psnr_of_a_constant_error_is_known_and_taken_before_clamping():
    references = np.zeros((2, 1, 4, 4), np.float32)
    samples = references + np.array([0.02, 0.2], np.float32)[:, None, None, None]
    assert psnr(samples, references) == pytest.approx([40.0, 20.0], abs=1e-5)  # 20 log10(2 / error)
    assert psnr(np.full((1, 1, 2, 2), 1.7), np.full((1, 1, 2, 2), 1.5)) == pytest.approx([20.0])


def test_psnr_of_equal_samples_is_the_ceiling_so_that_means_stay_finite():
    same = np.random.default_rng(0).normal(size=(3, 1, 4, 4))
    assert psnr(same, same).tolist() == [CEILING] * 3


def test_psnr_refuses_to_broadcast_and_hides_no_nan():
    with pytest.raises(ValueError, match="one shape"):
        psnr(np.zeros((2, 1, 4, 4)), np.zeros((1, 1, 4, 4)))
    samples = np.zeros((2, 1, 2, 2))
    samples[1, 0, 0, 0] = np.nan
    assert np.isnan(psnr(samples, np.zeros_like(samples))).tolist() == [False, True]


def ratio(approximation: Floats, signal: Floats) -> float:
    return sqnr(signal_and_noise_energy(approximation, signal))


def test_sqnr_of_proportional_noise_is_known_and_of_a_uniform_quantizer_is_six_decibels_a_bit():
    signal = np.random.default_rng(1).normal(size=(4, 3, 8, 8))
    assert ratio(1.1 * signal, signal) == pytest.approx(20.0)
    signal = np.random.default_rng(2).uniform(-1, 1, 200_000)
    step = 2 / 256
    quantized = (np.floor(signal / step) + 0.5) * step
    assert ratio(quantized, signal) == pytest.approx(8 * 20 * np.log10(2), abs=0.05)


def test_sqnr_does_not_depend_on_how_the_stream_is_cut():
    rng = np.random.default_rng(3)
    signal, noise = rng.normal(size=(6, 2, 4, 4)), rng.normal(size=(6, 2, 4, 4)) * 0.1
    cuts = (slice(0, 1), slice(1, 4), slice(4, 6))
    total = sum(signal_and_noise_energy((signal + noise)[cut], signal[cut]) for cut in cuts)
    assert sqnr(total) == pytest.approx(ratio(signal + noise, signal))


def test_ssim_of_equal_images_is_one_and_of_constants_is_known():
    images = np.random.default_rng(7).normal(size=(2, 3, 16, 12))
    assert ssim(images, images) == pytest.approx([1, 1])
    a, b, c1 = 0.5, -0.2, 0.02**2  # no variance: only the luminance term is left
    known = (2 * a * b + c1) / (a**2 + b**2 + c1)
    assert ssim(np.full((1, 1, 11, 11), a), np.full((1, 1, 11, 11), b)) == pytest.approx([known])


def test_ssim_is_the_formula_in_every_window():
    rng = np.random.default_rng(8)
    a = rng.normal(size=(1, 1, 12, 11))
    b = a + 0.3 * rng.normal(size=a.shape)
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for top in range(2):
        x, y = (each[0, 0, top : top + 11] for each in (a, b))
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
        cov = (window * (x - mx) * (y - my)).sum()
        c1, c2 = 0.02**2, 0.06**2
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert ssim(a, b) == pytest.approx([np.mean(values)])


def test_ssim_falls_with_noise_and_says_where_it_is_not_defined():
    images = np.random.default_rng(9).normal(size=(2, 1, 16, 16))
    noise = np.random.default_rng(10).normal(size=images.shape)
    assert (ssim(images + 0.1 * noise, images) > ssim(images + noise, images)).all()
    assert has_ssim((3, 11, 11)) and not has_ssim((3, 10, 64)) and not has_ssim((16, 7))
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(images[..., :8], images[..., :8])
