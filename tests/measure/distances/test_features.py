import gzip
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.measure.distances.features import NAMED, default_features, open_extractor
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from tests.report.extractors import write_extractor
from tests.report.judged_bundle import make_bundle

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
MATRIX = np.random.default_rng(0).normal(size=(64, 3))
SHAPE = (1, 8, 8)


def test_an_extractor_of_ones_own_sees_clamped_samples(tmp_path):
    extractor = open_extractor(str(write_extractor(tmp_path / "mine.onnx", MATRIX)), SHAPE)
    samples = 2 * np.random.default_rng(1).normal(size=(5, *SHAPE))
    assert (extractor.name, len(extractor.sha256)) == ("mine", 64)
    assert extractor.extract(samples) == pytest.approx(np.clip(samples, -1, 1).reshape(5, -1) @ MATRIX, abs=1e-5)


def test_features_are_the_output_of_that_name_or_the_only_one(tmp_path):
    assert open_extractor(str(write_extractor(tmp_path / "a.onnx", MATRIX, ("logits", "features"))), SHAPE)
    assert open_extractor(str(write_extractor(tmp_path / "b.onnx", MATRIX, ("pooled",))), SHAPE)
    with pytest.raises(UserError, match=r"outputs \['a', 'b'\]"):
        open_extractor(str(write_extractor(tmp_path / "c.onnx", MATRIX, ("a", "b"))), SHAPE)


def test_what_is_no_extractor_of_these_samples_is_told(tmp_path):
    with pytest.raises(UserError, match=r"extracts no features of samples of 3x8x8"):
        open_extractor(str(write_extractor(tmp_path / "a.onnx", MATRIX)), (3, 8, 8))
    with pytest.raises(UserError, match="unknown features 'fid'; give one of fashion-mnist-cnn, cifar10-cnn, none"):
        open_extractor("fid", SHAPE)
    with pytest.raises(UserError, match="there is no extractor"):
        open_extractor(str(tmp_path / "gone.onnx"), SHAPE)
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(UserError, match="cannot load noise.onnx.*; an extractor takes float32"):
        open_extractor(str(tmp_path / "noise.onnx"), SHAPE)
    assert open_extractor("none", SHAPE) is None


def test_a_bundle_gets_the_extractor_of_its_own_data_only(tmp_path):
    manifest = open_bundle(make_bundle(tmp_path / "tiny")).manifest
    assert default_features(manifest) == "none"
    provenance = msgspec.structs.replace(manifest.provenance, source="fashion_mnist")
    assert default_features(msgspec.structs.replace(manifest, provenance=provenance)) == "fashion-mnist-cnn"


SHAPES = {"fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


@pytest.mark.parametrize("named", NAMED)
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
    logits = extractor.network({extractor.input: x})["logits"]
    assert (logits.argmax(axis=1) == labels[:2000]).mean() > 0.91  # 92 % on all 10 000
