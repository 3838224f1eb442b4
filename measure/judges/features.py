"""The judge `features`: how near the features of samples are to those of the references, in a classifier's space.

The score of a sample is the ratio of the variance of the references' features to the squared distance of its own
features from those of its reference, in dB. It is the signal-to-error ratio of a verdict, computed in the features. The
scale of the features does not matter: an unrelated sample has about -3 dB, since its distance has twice the variance.
"""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.distances.features import Extractor, default_extractor, open_extractor
from fewstep.measure.judges.judge import Conditions, Judge, Values
from fewstep.measure.rollouts.metrics import CEILING
from fewstep.measure.rollouts.record_sizes import stack_rows
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Manifest

LIMIT = 15.0  # dB; the shipped models have it where errors of int8 are scaled to a PSNR of 28 and of 33 dB
FEWEST = 2  # samples, for a variance
AT_ONCE = 16  # samples in one call of the classifier
FORM = "write features, features:LIMIT, features:FILE.onnx or features:FILE.onnx,LIMIT, with the limit in dB"


def open_feature_judge(text: str, manifest: Manifest) -> Judge:
    """Return the judge for "FILE.onnx,LIMIT", both of which may be missing: the file for data with a shipped
    extractor. Raises UserError for another text, and without an extractor for the data."""
    numbers, names = list[float](), list[str]()
    for word in filter(None, text.split(",")):
        try:
            numbers.append(float(word))
        except ValueError:
            names.append(word)
    if len(names) > 1 or len(numbers) > 1 or not np.isfinite(numbers).all():
        raise UserError(f"--judge features:{text} cannot be read", FORM)
    name = names[0] if names else default_extractor(manifest)
    extractor = open_extractor(name, manifest.x_shape, 1, manifest.space.dtype)  # more threads change its last bits
    if extractor is None:
        what = f"no classifier of the data of {manifest.name} comes with fewstep" if not names else "features:none"
        raise UserError(what, "give your own: --judge features:FILE.onnx")
    limit = numbers[0] if numbers else LIMIT
    plain = ",".join(Path(word).name for word in text.split(","))
    function = partial(score_features, extractor, limit)
    files = tuple(Path(file).absolute() for file in names if Path(file).is_file())  # none of a shipped extractor
    return Judge(f"features:{plain}" if text else "features", extractor.sha256, function, files)


def score_features(
    extractor: Extractor, limit: float, samples: Values, reference: Values, conditions: Conditions
) -> tuple[NDArray[np.float64], float]:
    """Return the score of each sample [N] in dB, at most CEILING, and the limit."""
    if len(reference) < FEWEST:
        raise UserError("the judge features compares samples of several seeds, and there is one", "give more seeds")
    ours, exact = (_extract(extractor, values) for values in (samples, reference))
    variance = float(np.square(exact - exact.mean(0)).sum(1).mean())
    if not variance:
        raise UserError(f"{extractor.name} returns the same features for all samples of float32", "give another file")
    with np.errstate(divide="ignore"):
        scores = 10 * np.log10(variance / np.square(ours - exact).sum(1))
    return np.minimum(scores, CEILING), limit


def _extract(extractor: Extractor, samples: Values) -> NDArray[np.float64]:
    """Return the features [N, D] of samples, which may differ in size."""
    at_once = AT_ONCE if samples.dtype != object else 1
    parts = [stack_rows(samples[start : start + at_once]) for start in range(0, len(samples), at_once)]
    return np.concatenate([extractor.extract(part) for part in parts]).astype(np.float64)
