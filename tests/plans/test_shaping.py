"""The nonlinear operations of a step, compared with their formulas."""

import numpy as np
import pytest

from fewstep.plans import shaping
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.shaping import Clip, GuideChannels, GuideFrames, MatchNorm, Project, Rescale, Threshold
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.refusals import refuses

DENOISING = DenoiserFacts(ScheduleSpec("cosine"), "v")
X = np.random.default_rng(0).standard_normal((3, 2, 8, 8))


def test_dynamic_thresholding_brings_the_quantile_to_one():
    """Saharia et al. 2022: division by s, which is at least 1. A sample inside [-1, 1] is unchanged."""
    values = np.stack([4 * X[0], X[1] / 10])
    p = shaping.apply(Threshold(0.9, most=100.0), [values])
    s = np.quantile(np.abs(values[0]), 0.9)
    np.testing.assert_allclose(p[0], np.clip(values[0], -s, s) / s)
    np.testing.assert_array_equal(p[1], values[1])
    assert shaping.apply(Threshold(0.9, most=2.0), [values])[0].max() == 1.0
    np.testing.assert_array_equal(p, shaping.apply(Threshold(0.9), [values]))  # no limit unless one is given


def test_rescaling_gives_the_guided_output_the_spread_of_the_conditional_one():
    guided, cond = 3 * X, X + 1
    full = shaping.apply(Rescale(1.0), [guided, cond])
    np.testing.assert_allclose(full.std(axis=(1, 2, 3)), cond.std(axis=(1, 2, 3)))
    np.testing.assert_allclose(shaping.apply(Rescale(0.0), [guided, cond]), guided)
    np.testing.assert_allclose(shaping.apply(Rescale(0.7), [guided, cond]), 0.7 * full + 0.3 * guided)


def test_matched_norms_are_those_of_the_conditional_output_along_the_axis():
    matched = shaping.apply(MatchNorm(-3), [3 * X, X + 1])
    np.testing.assert_allclose(np.linalg.norm(matched, axis=1), np.linalg.norm(X + 1, axis=1))
    np.testing.assert_allclose(
        matched * np.linalg.norm(X, axis=1, keepdims=True), X * np.linalg.norm(X + 1, axis=1, keepdims=True)
    )


def test_channels_that_are_not_guided_are_those_of_the_conditional_output():
    p = shaping.apply(GuideChannels(1), [3 * X, X])
    np.testing.assert_array_equal(p[:, :1], 3 * X[:, :1])
    np.testing.assert_array_equal(p[:, 1:], X[:, 1:])


def test_a_projection_with_eta_0_is_orthogonal_to_the_conditional_output():
    p = shaping.apply(Project(0.0), [X, X[::-1] + 1])
    np.testing.assert_allclose((p * (X[::-1] + 1)).sum(axis=(1, 2, 3)), 0, atol=1e-12)
    parallel = X - p  # the rest of X is parallel to it
    ratio = parallel / (X[::-1] + 1)
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1, :1], ratio.shape))


def test_a_difference_is_shortened_to_the_limit_along_the_axis():
    p = shaping.apply(Project(1.0, limit=1.5, axis=-3), [X, X + 1])
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(p, X * np.minimum(1, 1.5 / norms))


def test_frames_are_guided_by_weights_that_grow_along_them():
    cond, uncond, weights = X[:, :, :4], X[::-1, :, 4:], np.array([1.5, 3.0]).reshape(2, 1, 1)
    p = shaping.apply(GuideFrames(0.25), [uncond + 3 * (cond - uncond), cond])
    np.testing.assert_allclose(p, uncond + weights * (cond - uncond))


def test_an_axis_that_a_sample_lacks_is_refused():
    with refuses("-4", "from -3 to -1"):
        shaping.apply(MatchNorm(-4), [X, X])


def test_rescaling_without_guidance_changes_nothing():
    plan = compile_plan("ddim:2", DENOISING, shaping=Rescale(0.7))
    assert [step.shaping for step in plan.steps] == [None, None]


@pytest.mark.parametrize(
    "wrong",
    [
        Clip(1, -1),
        Clip(0, np.inf),  # no file holds it
        Clip(np.nan, 1),
        Clip(None, 1),
        Clip("0", 1),
        Threshold(0.0, 1.0),
        Threshold(0.9, 0.5),
        Threshold(0.9, np.inf),
        Rescale(1.5),
        MatchNorm(0),
        GuideChannels(0),
        GuideFrames(np.nan),
        Project(axis=0),
        Project(limit=0.0),
        Project(momentum=np.inf),
        "clip",
    ],
)
def test_shapes_that_make_no_sense_are_named(wrong):
    with pytest.raises(UserError, match=r"clips|thresholds|rescales|matches|guides|projects|shaping|expected `float`"):
        compile_plan("ddim:2", DENOISING, shaping=wrong)


def test_whole_numbers_are_bounds_too():
    plan = compile_plan("ddim:2", DENOISING, shaping=Clip(-1, np.float32(1)))
    assert plan == compile_plan("ddim:2", DENOISING, shaping=Clip(-1.0, 1.0)) and decode(encode(plan)) == plan
