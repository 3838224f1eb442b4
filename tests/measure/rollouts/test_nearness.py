"""One measure of nearness, for signals of any scale."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fewstep.measure.rollouts.end_quality import compare_samples
from fewstep.measure.rollouts.metrics import PEAK, psnr
from fewstep.measure.rollouts.nearness import Nearness, ReferencePower, beyond_data, clip_hint, leaves_range
from fewstep.measure.tally import PairedSamples
from fewstep.runtime.sampling.finite_checks import clip_option


@pytest.mark.parametrize(
    ("psnr", "snr", "enough"),
    [
        (25.0, 15.0, True),
        (24.9, 20.0, False),
        (40.0, 14.9, False),
        (25.0, None, True),
        (np.nan, 20.0, False),
        (-200.0, 50.0, True),
    ],
)
def test_both_figures_are_asked_for_and_a_quiet_signal_is_not_near_for_its_peak(
    psnr: float, snr: float | None, enough: bool
) -> None:
    assert Nearness(psnr, snr).is_enough is enough
    assert Nearness(40.0, 30.0).is_near and not Nearness(45.0, 25.0).is_near


def manifest_of(shape: tuple[int, ...], fields: dict[str, Any]) -> Any:
    return SimpleNamespace(**{"x_shape": shape, "autoencoder": None, "units": None, "data_limit": None, **fields})


@pytest.mark.parametrize(
    ("unrelated", "largest", "limit", "leaves"),
    [
        (-20.1, None, None, True),  # of unknown range
        (-19.9, 37.0, None, False),
        (-20.1, 37.0, 10.0, False),  # large data
        (12.0, 37.0, 2.5, True),
        (-20.1, None, 2.5, False),
    ],
)
def test_samples_leave_the_known_range_of_the_data_or_a_wide_one(
    unrelated: float, largest: float | None, limit: float | None, leaves: bool
) -> None:
    manifest, near = manifest_of((16, 2), {"data_limit": limit}), Nearness(45.0, 40.0, unrelated, largest)
    assert leaves_range(near, manifest, is_clipped=False) is leaves
    assert not leaves_range(near, manifest, is_clipped=True)


@pytest.mark.parametrize(
    ("shape", "fields", "end"),
    [
        ((3, 8, 8), {}, "the largest number in your data, which export --check reads, such as 1 for images in [-1, 1]"),
        ((4, 8, 8), {}, "the largest number in your data, which export --check reads"),
        ((16, 2), {}, "the largest number in your data, which export --check reads"),
        (
            (3, 8, 8),
            {"autoencoder": object()},
            "the largest number in latents of your data, which export --check reads",
        ),
    ],
)
def test_one_is_a_limit_for_pictures_alone(shape: Any, fields: dict[str, Any], end: str) -> None:
    assert clip_hint(manifest_of(shape, fields)).endswith(f"clip each clean prediction, with --clip LIMIT, {end}")


def test_a_known_range_of_the_data_is_the_limit_of_the_clip() -> None:
    manifest = manifest_of((4, 8, 8), {"data_limit": 3.25})
    assert clip_hint(manifest).endswith("with --clip 3.25, the largest number in your data")
    assert clip_option(manifest) == "--clip 3.25" and clip_option(manifest_of((4, 8, 8), {})) == "--clip LIMIT"


@pytest.mark.parametrize(
    ("shape", "fields", "limit"),
    [
        ((1, 8, 8), {}, 4.0),
        ((3, 8, 8), {"autoencoder": object()}, 20.0),
        ((16, 2), {"units": object()}, 20.0),
        ((16, 2), {"data_limit": 40.0}, 160.0),
        ((1, 8, 8), {"data_limit": 0.5}, 2.0),
    ],
)
def test_samples_are_beyond_four_times_the_range_of_the_data(shape: Any, fields: dict[str, Any], limit: float) -> None:
    manifest = manifest_of(shape, fields)
    inside, outside = (Nearness(50.0, 40.0, 3.0, limit + more) for more in (0.0, 0.5))
    assert beyond_data(inside, manifest, False) is None and beyond_data(outside, manifest, False) == limit + 0.5
    assert beyond_data(outside, manifest, True) is None and beyond_data(Nearness(50.0), manifest, False) is None


@pytest.mark.parametrize("shape", [(4, 8, 8), (16, 3)])
def test_data_of_unknown_range_have_no_limit(shape: Any) -> None:
    """Coordinates in angstrom reach 40."""
    assert beyond_data(Nearness(50.0, 40.0, 3.0, 40.0), manifest_of(shape, {}), False) is None


def test_the_largest_number_is_that_of_samples_and_references() -> None:
    small, large = np.array([[[0.5, -1.0]]], np.float32), np.array([[[0.25, -37.5]]], np.float32)
    for pair in ((small, large), (large, small)):
        assert compare_samples([pair], "itself").largest == 37.5


def test_figures_follow_from_the_signal_however_it_is_cut() -> None:
    rng = np.random.default_rng(0)
    exact = (0.13 * rng.standard_normal((7, 1, 8, 8)) + 5).astype(np.float32)
    noisy = exact + np.float32(0.01) * rng.standard_normal(exact.shape).astype(np.float32)
    whole, cut = compare_samples([(noisy, exact)], "itself"), PairedSamples()
    for part in (slice(0, 1), slice(1, 1), slice(1, 5), slice(5, 7)):
        cut.add(noisy[part], exact[part])
    assert whole.snr == pytest.approx(whole.mean - 10 * np.log10(PEAK**2 / exact.astype(np.float64).var()), abs=1e-6)
    assert whole.snr == pytest.approx(20 * np.log10(13), abs=1)
    assert whole.unrelated == pytest.approx(float(psnr(exact[1:], exact[:-1]).mean()), abs=1e-9)
    assert whole.unrelated == pytest.approx(20 * np.log10(PEAK / 0.13) - 10 * np.log10(2), abs=1)
    assert vars(cut.quality("float32").nearness) == pytest.approx(vars(whole.nearness))


def test_one_number_has_no_signal_and_one_seed_no_other() -> None:
    signal = ReferencePower()
    signal.add(np.full((1, 1, 4, 4), 0.3, np.float32))
    assert signal.nearness(30.0) == Nearness(30.0, largest=np.float32(0.3))
    signal = ReferencePower()
    signal.add(np.zeros((2, 1, 4, 4), np.float32))
    assert signal.nearness(30.0).snr is None


def test_what_is_said_compares_with_another_seed() -> None:
    said = "14.8 dB from float32, the signal 7.0 dB above the error; another seed's sample has 17.3 dB"
    assert Nearness(14.8, 7.0, 17.3).describe("float32") == said
    assert Nearness(50.0).describe("float32") == "50.0 dB from float32"
