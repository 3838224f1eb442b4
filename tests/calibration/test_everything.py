"""A target in which every tensor has a code is calibrated together with other targets, which it leaves unchanged."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.failed_bodies import select_makeable_targets
from fewstep.calibration.ranges.histogram import make_histogram
from fewstep.calibration.ranges.observe import Counts
from fewstep.calibration.ranges.read_table import load as load_table
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle
from tests.calibration.test_calibrate import FIRST, denoiser, task_of, write_bundle
from tests.refusals import refuses


def test_a_body_of_integers_alone_next_to_one_with_floats(tmp_path: Path) -> None:
    alone, both = (write_bundle(tmp_path / name, denoiser()) for name in ("alone", "both"))
    calibrate(replace(FIRST, bundle=alone, target=("cpu-x86",)))
    made = calibrate(replace(FIRST, bundle=both, target=("qnn", "cpu-x86")))
    first, second = (open_bundle(each) for each in (alone, both))
    usual, body = second.body("int8-cpu-x86"), second.body("int8-qnn")
    assert usual.graph.file == first.body("int8-cpu-x86").graph.file  # hashes of the content
    assert second.manifest.ranges == usual.ranges == first.body("int8-cpu-x86").ranges != body.ranges
    assert usual.groups and body.groups == ()
    assert body.graph.coverage is not None and body.graph.coverage.float_ops == ()
    assert body.graph.coverage.int8_ops == ("h0", "h1", "v")
    assert body.ranges is not None
    ranges = load_table(both / body.ranges)
    counted = {"x", "row", "h0", "a0", "h1", "m1", "a1", "v"}
    assert set(ranges.tensors) == counted | {f"eight({name})" for name in ("a0",)}
    assert ranges.method == "channels"
    for tensor in ranges.tensors.values():  # nothing is clipped
        assert tensor.pooled.low == min(one.low for one in tensor.per_group)
        assert tensor.pooled.high == max(one.high for one in tensor.per_group)
    assert made.searches == {} and body.trials[0].psnr > usual.trials[0].psnr + 4
    sampler = load(both, body="int8-qnn")
    condition = {"class": [1]}
    whole = load(both, body="float32").sample("ddim:3", seeds=[7], condition=condition)
    assert np.abs(sampler.sample("ddim:3", seeds=[7], condition=condition) - whole).max() < 0.02


def test_a_bound_is_refused_where_nothing_may_stay_in_float(tmp_path: Path) -> None:
    with refuses("--quality does not apply to qnn"):
        calibrate(replace(FIRST, bundle=tmp_path, target=("qnn",), quality="40dB"))


def test_thin_layers_alone_are_lowered_where_everything_is(tmp_path: Path) -> None:
    """They have 8 channels, which a rule of the other targets excludes."""
    bundle = write_bundle(tmp_path / "bundle", denoiser(width=8))
    with refuses(("int8-cpu-x86", "no operation"), "in the bundle: int8-qnn"):
        calibrate(replace(FIRST, bundle=bundle, target=("cpu-x86", "qnn")))
    coverage = open_bundle(bundle).body("int8-qnn").graph.coverage
    assert coverage is not None and coverage.int8_ops == ("h0", "h1", "v")
    with refuses("no operation of graph 'body'"):
        calibrate(replace(FIRST, bundle=bundle, target=("cpu-x86",)))


def test_a_condition_that_keeps_its_default_is_refused_at_the_start(bundle: Path, tmp_path: Path) -> None:
    """Its codes would clip every other value. Bodies of other targets are written."""
    manifest = open_bundle(bundle).manifest
    label = msgspec.structs.replace(manifest.conditions[0], default=(0.0,))
    change_bundle(bundle, conditions=(label,))
    said = r"condition 'class' has its default on every trajectory, and qnn clips other values"
    with pytest.raises(UserError, match=rf"int8-qnn was not made: {said}.*\(in the bundle: int8-cpu-x86\)"):
        calibrate(replace(FIRST, bundle=bundle, target=("cpu-x86", "qnn")))
    (trial,) = open_bundle(bundle).body("int8-cpu-x86").trials
    assert trial.fixed_conditions == ("class",)
    np.savez(tmp_path / "classes.npz", **{"class": np.array([0, 1])})
    made = calibrate(replace(FIRST, bundle=bundle, target=("qnn",), conditions=tmp_path / "classes.npz"))
    assert list(made.lowered) == ["int8-qnn"]


def test_an_activation_without_values_has_no_code(bundle: Path) -> None:
    counts = Counts(("x",), (), {("x", 0): make_histogram(np.ones(3, np.float32), None)}, unseen=("expert",))
    task = task_of(replace(FIRST, bundle=bundle, target=("cpu-x86", "qnn")))
    attempts = select_makeable_targets(task, counts)
    assert attempts.made == {"int8-cpu-x86": task.targets[0]} and list(attempts.failed) == ["int8-qnn"]
    with refuses(("no trajectory computed activation 'expert'", "qnn")):
        select_makeable_targets(replace(task, targets=task.targets[1:]), counts)
