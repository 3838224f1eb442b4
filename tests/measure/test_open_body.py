"""A worker draws the same samples as this process."""

import pickle
from pathlib import Path

import numpy as np

from fewstep.measure.open_body import SamplingJob
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.measure.sampling import SampledBatch
from fewstep.measure.workers.pinned_bundle import pin_bundle
from fewstep.runtime.sampling.loading import load
from tests.report.judged_bundle import make_bundle

BODY = "int8-cpu-x86"


def test_a_job_that_travelled_samples(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "tiny")
    asked = pickle.loads(pickle.dumps(SamplingJob(pin_bundle(folder), by_rows=False)))
    conditions = {"class": np.array([3, 5])}
    sampler = load(folder)
    plan, shape = sampler.compile("ddim:2"), sampler.bundle.manifest.x_shape
    samples = asked.open(1)(SampledBatch(BODY, plan, SeedBatch(range(2), shape, conditions)))
    np.testing.assert_array_equal(samples, load(folder, body=BODY).sample(plan, range(2), conditions))


def test_a_body_has_its_own_conditions_of_each_seed(tmp_path: Path) -> None:
    """Of a selection of seeds too; other bodies have those of the batch."""
    folder = make_bundle(tmp_path / "tiny")
    sampler = load(folder)
    plan, shape = sampler.compile("ddim:2"), sampler.bundle.manifest.x_shape
    own = {"class": np.array([1, 2, 4])}
    batch = SeedBatch(range(3), shape, {"class": np.array([3, 5, 7])}, own={BODY: own}).select(slice(1, 3))
    for name, classes in ((BODY, [2, 4]), ("float32", [5, 7])):
        body = load(folder, body=name)
        samples = SampledBatch(name, plan, batch).answer({name: body}.__getitem__)
        np.testing.assert_array_equal(samples, body.sample(plan, [1, 2], {"class": classes}))
