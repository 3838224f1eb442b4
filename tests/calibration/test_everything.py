"""A target whose every tensor has a code is calibrated beside others, which it leaves as they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.plans.errors import UserError
from fewstep.ranges.table import load as load_table
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle


def test_a_body_of_integers_alone_beside_one_with_floats(tmp_path: Path) -> None:
    alone, both = (write_bundle(tmp_path / name, denoiser()) for name in ("alone", "both"))
    calibrate(replace(FIRST, bundle=alone, target=("cpu-x86",)))
    made = calibrate(replace(FIRST, bundle=both, target=("cpu-x86", "qnn")))
    first, second = (open_bundle(each) for each in (alone, both))
    usual, body = second.body("int8-cpu-x86"), second.body("int8-qnn")
    assert usual.graph.file == first.body("int8-cpu-x86").graph.file  # hashes of the content
    assert usual.ranges == first.body("int8-cpu-x86").ranges != body.ranges
    assert usual.groups and body.groups == ()
    assert body.graph.coverage is not None and body.graph.coverage.float_ops == ()
    assert body.graph.coverage.int8_ops == ("h0", "h1", "v")
    assert body.ranges is not None
    ranges = load_table(both / body.ranges)
    assert set(ranges.tensors) == {"x", "row", "h0", "a0", "h1", "m1", "a1", "v"} and ranges.method == "channels"
    assert made.refined == {} and body.trials[0].psnr > usual.trials[0].psnr + 4
    sampler = load(both, body="int8-qnn")
    condition = {"class": [1]}
    whole = load(both, body="float32").sample("ddim:3", seeds=[7], condition=condition)
    assert np.abs(sampler.sample("ddim:3", seeds=[7], condition=condition) - whole).max() < 0.02


def test_ranges_are_those_of_every_step(tmp_path: Path) -> None:
    """Nothing is clipped, whatever the method of the other targets is."""
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    ranges = [
        calibrate(replace(FIRST, bundle=bundle, target=("qnn",), ranges=method)).table.tensors
        for method in ("channels", "minmax")
    ]
    assert ranges[0] == ranges[1]
    for each in ranges[0].values():
        assert each.pooled.low == min(one.low for one in each.per_group)
        assert each.pooled.high == max(one.high for one in each.per_group)


def test_a_bound_is_refused_where_nothing_may_stay_in_float(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a precision map for qnn: it is measured where the body runs"):
        calibrate(replace(FIRST, bundle=tmp_path, target=("qnn",), quality="40dB"))
