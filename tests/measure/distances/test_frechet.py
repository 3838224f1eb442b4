"""Distances of sets of samples, the features that they compare, and statistics of references."""

import gzip
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.measure.distances import frechet
from fewstep.measure.distances.data import open_data
from fewstep.measure.distances.drift import BANDS, Moments, measure_drift
from fewstep.measure.distances.features import SHIPPED, default_extractor, open_extractor
from fewstep.measure.distances.frechet import (
    Gaussian,
    SetComparison,
    bias_of_distance,
    compare_sets,
    fit_gaussian,
    frechet_distance,
)
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from tests.refusals import refuses
from tests.report.extractors import write_extractor
from tests.report.judged_bundle import make_bundle


def gaussian(mean, covariance):
    return Gaussian(np.array(mean, float), np.array(covariance, float), 1)


def test_frechet_of_diagonal_gaussians_is_the_sum_over_axes():
    a, b = gaussian([0, 0], np.diag([4, 1])), gaussian([3, 0], np.diag([1, 9]))
    assert frechet_distance(a, b) == pytest.approx(3**2 + (2 - 1) ** 2 + (1 - 3) ** 2)


def test_frechet_is_a_distance_and_does_not_depend_on_the_axes():
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    factors = [rng.normal(size=(5, 5)) for _ in range(2)]
    a, b = (gaussian(rng.normal(size=5), factor @ factor.T) for factor in factors)
    turned = [gaussian(rotation @ g.mean, rotation @ g.covariance @ rotation.T) for g in (a, b)]
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a)) == pytest.approx(frechet_distance(*turned))


def test_frechet_serves_singular_covariances():
    flat = gaussian([0, 0], np.diag([1, 0]))
    assert frechet_distance(flat, gaussian([0, 0], np.diag([0, 4]))) == pytest.approx(1 + 4)


def test_bias_is_what_two_sets_of_one_gaussian_show():
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(8, 8))
    known = gaussian(np.zeros(8), factor.T @ factor)
    for n, m in ((300, 300), (200, 800)):
        found = [
            frechet_distance(*(fit_gaussian(rng.normal(size=(size, 8)) @ factor) for size in (n, m))) for _ in range(60)
        ]
        assert np.mean(found) == pytest.approx(bias_of_distance(known, n, m), rel=0.1)


def test_interval_holds_the_measured_difference_and_grows_with_a_real_one():
    rng = np.random.default_rng(3)
    floats, reference = rng.normal(size=(400, 6)), rng.normal(size=(400, 6))
    near, far = floats + 0.001 * rng.normal(size=floats.shape), floats + np.eye(6)[0]
    own = compare_sets(near, floats, reference, resamples=50)
    assert own.low < 0 < own.high and own.high - own.low < 0.02  # paired: far finer than the floor
    found = compare_sets(far, floats, reference, resamples=50)
    difference = frechet_distance(fit_gaussian(far), fit_gaussian(reference)) - frechet_distance(
        fit_gaussian(floats), fit_gaussian(reference)
    )
    assert found.low < difference == found.difference < found.high and 0.5 < found.high - found.low < 1
    assert compare_sets(far, floats, reference, 50) == found  # the same every time
    two = compare_sets(far, floats, reference, resamples=2)  # a in [-a / 2, a / 2] has the deviation a / sqrt(2)
    assert two.error == pytest.approx((two.high - two.low) / frechet.CONFIDENCE / 2**0.5)
    one = floats + 30 * np.eye(400)[:, :1] * np.eye(6)[0]  # a row far off, which a resample may have twice
    skewed = compare_sets(one, floats, reference, resamples=50)
    assert skewed.high - skewed.difference > 1.2 * (skewed.difference - skewed.low)
    assert compare_sets(far, floats, floats, 50, shares_seeds=True).error < found.error / 3


def test_only_what_leaves_the_floor_and_its_own_interval_is_detectable():
    found = (0.5, 0.4, 0.6), (2.0, -1.0, 5.0), (2.0, 1.5, 2.5), (-2.0, -2.5, -1.5)  # far from 3
    sets = [SetComparison(3 + difference, 3.0, 0.1, low, high) for difference, low, high in found]
    assert [each.is_detectable(noise_floor=1.0) for each in sets] == [False, False, True, True]


def test_a_gaussian_needs_features_of_two_samples():
    with pytest.raises(ValueError, match="two samples or more"):
        fit_gaussian(np.zeros((1, 4)))


def moments(samples, cuts=1):
    made = Moments()
    for part in np.array_split(samples, cuts):
        made.add(part)
    return made


def drift_of(samples, references):
    return measure_drift(moments(samples), moments(references))


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
        assert own.saturation_share == pytest.approx((np.abs(images) > 1).mean())
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


FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
MATRIX = np.random.default_rng(0).normal(size=(64, 3))
SHAPE = (1, 8, 8)


def test_a_user_supplied_extractor_gets_clamped_samples(tmp_path):
    extractor = open_extractor(str(write_extractor(tmp_path / "mine.onnx", MATRIX)), SHAPE)
    samples = 2 * np.random.default_rng(1).normal(size=(5, *SHAPE))
    assert (extractor.name, len(extractor.sha256)) == ("mine", 64)
    assert extractor.extract(samples) == pytest.approx(np.clip(samples, -1, 1).reshape(5, -1) @ MATRIX, abs=1e-5)


def test_features_are_the_output_of_that_name_or_the_only_one(tmp_path):
    assert open_extractor(str(write_extractor(tmp_path / "a.onnx", MATRIX, ("logits", "features"))), SHAPE)
    assert open_extractor(str(write_extractor(tmp_path / "b.onnx", MATRIX, ("pooled",))), SHAPE)
    with pytest.raises(UserError, match=r"outputs \['a', 'b'\]"):
        open_extractor(str(write_extractor(tmp_path / "c.onnx", MATRIX, ("a", "b"))), SHAPE)


def test_what_is_no_extractor_of_these_samples_is_reported(tmp_path):
    with refuses(("extract features", "3x8x8")):
        open_extractor(str(write_extractor(tmp_path / "a.onnx", MATRIX)), (3, 8, 8))
    with refuses("'fid'", "fashion-mnist-cnn, cifar10-cnn, none"):
        open_extractor("fid", SHAPE)
    with pytest.raises(UserError, match="there is no extractor"):
        open_extractor(str(tmp_path / "gone.onnx"), SHAPE)
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with refuses("noise.onnx", "float32"):
        open_extractor(str(tmp_path / "noise.onnx"), SHAPE)
    assert open_extractor("none", SHAPE) is None


def test_a_bundle_gets_the_extractor_of_its_own_data_only(tmp_path):
    manifest = open_bundle(make_bundle(tmp_path / "tiny")).manifest
    assert default_extractor(manifest) == "none"
    provenance = msgspec.structs.replace(manifest.provenance, source="fashion_mnist")
    assert default_extractor(msgspec.structs.replace(manifest, provenance=provenance)) == "fashion-mnist-cnn"


SHAPES = {"fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


@pytest.mark.parametrize("named", SHIPPED)
def test_shipped_extractors_are_small_and_run(named):
    x_shape = SHAPES[named.source]
    extractor = open_extractor(named.name, x_shape)
    grey = extractor.extract(np.zeros((2, *x_shape)))
    assert extractor.name == named.name and grey.shape == (2, 64) and np.array_equal(grey[0], grey[1])
    assert (Path(__file__).parents[3] / "measure" / "distances" / "extractors" / named.file).stat().st_size < 1_500_000


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs the data set")
def test_fashion_mnist_cnn_knows_its_data_as_its_card_says():
    images, labels = (
        np.frombuffer(gzip.decompress((FASHION_MNIST / f"t10k-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for kind, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    x = images.reshape(-1, 1, 28, 28)[:2000].astype(np.float32) / 127.5 - 1
    extractor = open_extractor("fashion-mnist-cnn", (1, 28, 28))
    logits = extractor.graph({extractor.input: x})["logits"]
    assert (logits.argmax(axis=1) == labels[:2000]).mean() > 0.91  # 92 % on all 10 000


def store(folder, array):
    np.save(folder / "real.npy", array)
    return folder / "real.npy"


def test_bytes_and_floats_both_come_in_model_range(tmp_path):
    images = np.array([[0, 255], [51, 204]], np.uint8).reshape(2, 1, 1, 2)
    (found,) = open_data(store(tmp_path, images), (1, 1, 2)).batches()
    assert found.dtype == np.float32 and found.reshape(-1) == pytest.approx([-1, 1, -0.6, 0.6])
    references = open_data(store(tmp_path, found), (1, 1, 2))
    assert references.name == "real" and np.array_equal(np.concatenate(list(references.batches())), found)


def test_grey_images_need_no_channel_axis_and_batches_hold_all(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(600, 4, 5)).astype(np.uint8)
    references = open_data(store(tmp_path, images), (1, 4, 5))
    parts = list(references.batches())
    assert len(references) == sum(map(len, parts)) == 600 and len(parts) == 3 and parts[0].shape[1:] == (1, 4, 5)


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros((3, 2, 2, 2), np.uint8), "has the shape"),
        (np.zeros((1, 1, 2, 2), np.uint8), "has the shape"),
        (np.zeros((3, 1, 2, 2), np.int64), "holds int64"),
        (np.full((3, 1, 2, 2), 255.0), r"outside \[-1, 1\]"),
        (np.array([{}], object), "cannot be read"),
    ],
)
def test_what_is_no_such_array_is_reported(tmp_path, array, what):
    with pytest.raises(UserError, match=what):
        open_data(store(tmp_path, array), (1, 2, 2))
