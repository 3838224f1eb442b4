"""The judge `features`: the signal-to-error ratio in the features of a classifier."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.measure.judges.features import LIMIT
from fewstep.measure.judges.judge import Judge, SamplePairs
from fewstep.measure.judges.options import open_judge
from fewstep.measure.rollouts.metrics import CEILING
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import open_bundle
from tests.refusals import refuses
from tests.report.extractors import write_extractor

SHAPE = (1, 8, 8)


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    return open_bundle(tiny_bundle).manifest


@pytest.fixture
def extractor(manifest: Manifest, tmp_path: Path) -> Path:
    """The sum of the first row, and that of the second."""
    matrix = np.zeros((np.prod(manifest.x_shape), 2))
    width = manifest.x_shape[-1]
    matrix[:width, 0] = matrix[width : 2 * width, 1] = 1
    file: Path = write_extractor(tmp_path / "rows.onnx", matrix, shape=manifest.x_shape)
    return file


def pairs(manifest: Manifest, errors: list[float]) -> SamplePairs:
    """Samples whose first value has an error. The sum of the first row of the references is 0.5 or -0.5 in turns, so
    that the variance of the features is 0.25."""
    reference = np.zeros((len(errors), *manifest.x_shape), np.float32)
    reference[:, 0, 0, 1] = np.where(np.arange(len(errors)) % 2, 0.5, -0.5)
    samples = reference.copy()
    samples[:, 0, 0, 0] = errors
    samples[:, 0, -1, -1] = 1.0  # which the features do not see
    return SamplePairs(samples, reference, {})


def test_the_score_is_the_ratio_of_the_variance_to_the_error_of_features(manifest: Manifest, extractor: Path) -> None:
    judge = open_judge(f"features:{extractor}", manifest)
    values, limit = judge.score((these := pairs(manifest, [0.05, 0.5, 0.0, 0.005])).samples, these)
    np.testing.assert_allclose(values, [20, 0, CEILING, 40], atol=1e-3)
    assert limit == LIMIT
    judged = judge.judge(these)
    assert judged.float32.value == CEILING and judged.score_range is not None
    assert (judge.name, judge.files) == ("features:rows.onnx", (extractor,))


@pytest.mark.parametrize("text", ["{},30", "{},30.0"])
def test_the_limit_may_be_given(manifest: Manifest, extractor: Path, text: str) -> None:
    judged = open_judge(f"features:{text.format(extractor)}", manifest).judge(pairs(manifest, [0.05] * 4))
    assert (judged.score.limit, judged.problem is None) == (30.0, False)


def test_data_without_a_classifier_need_a_file(manifest: Manifest) -> None:
    for text in ("features", "features:30", "features:none"):
        with refuses("", "--judge features:FILE.onnx"):
            open_judge(text, manifest)


@pytest.mark.parametrize("text", ["a.onnx,b.onnx", "1,2", "nan"])
def test_other_texts_are_refused(manifest: Manifest, text: str) -> None:
    with refuses(f"--judge features:{text} cannot be read", "write features"):
        open_judge(f"features:{text}", manifest)


def test_one_sample_has_no_variance_to_compare_with(manifest: Manifest, extractor: Path) -> None:
    judge: Judge = open_judge(f"features:{extractor}", manifest)
    with refuses("compares samples of several seeds", "more seeds"):
        judge.judge(pairs(manifest, [0.1]))
    equal = pairs(manifest, [0.1] * 4)
    with refuses("returns the same features for all samples of float32"):
        judge.judge(SamplePairs(equal.samples, np.zeros_like(equal.reference), {}))


def test_the_classifier_of_shipped_data_is_the_default(exported_fashion_mnist: Path) -> None:
    manifest = open_bundle(exported_fashion_mnist).manifest
    judge = open_judge("features:20", manifest)
    noise = np.random.default_rng(0).standard_normal((2, 4, *manifest.x_shape)).astype(np.float32) / 2
    judged = judge.judge(SamplePairs(noise[0] + noise[1] / 100, noise[0], {}))
    assert judge.name == "features:20" and 10 < judged.score.value < 50
