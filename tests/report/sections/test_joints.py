"""The errors of a policy's joints, in the robot's units."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.report.sections.joints import joint_errors
from fewstep.runtime.bundle.manifest import Affine, Policy
from fewstep.runtime.bundle.reading import open_bundle


def test_errors_are_in_units_and_of_executed_actions(tiny_bundle: Path) -> None:
    policy = Policy(1, 1, 2, discrete={1: (-1.0, 1.0)}, width=2)
    manifest = msgspec.structs.replace(
        open_bundle(tiny_bundle).manifest,
        x_shape=(4, 3),
        units=Affine((10.0, 1.0, 1.0), (5.0, 0.0, 0.0)),
        policy=policy,
    )
    reference = np.zeros((1, 4, 3), np.float32)
    reference[0, 1:3, 0] = (-1.0, 1.0)
    reference[0, 1:3, 1] = (-0.9, 0.9)
    samples = reference.copy()
    samples[0, :, 0] += (9.0, 0.03, -0.04, 9.0)  # the first and the last are not executed
    samples[0, 2, 1] = -0.1
    samples[..., 2] = 7.0  # padding
    joint, gripper = joint_errors(manifest, samples, reference)
    assert (joint.place, joint.levels, gripper.levels) == (0, 0, 2)
    assert joint.rms == pytest.approx(10 * np.sqrt((0.03**2 + 0.04**2) / 2), rel=1e-4)
    assert joint.largest == pytest.approx(0.4, rel=1e-4) and joint.spread == pytest.approx(10.0)
    assert joint.share == pytest.approx(joint.rms / 10) and gripper.moved == 0.5
    assert joint_errors(msgspec.structs.replace(manifest, policy=None), samples, reference) == ()
