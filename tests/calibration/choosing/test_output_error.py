"""A planted mean error is found, group by group, weighed as guidance weighs the branches."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.calibration.choosing.output_error import (
    after_first,
    corrected,
    joined,
    mean_error,
    weights,
)
from fewstep.graph.graph import GROUP
from fewstep.plans.compile import DenoiserFacts, compile_plan
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Clip
from fewstep.rollouts.closed_loop import Course, open_course
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.loading import load
from tests.calibration.test_calibrate import SCHEDULE, denoiser, write_bundle

PLANTED = np.array([0.05, -0.02, 0.01])  # of the steps' groups


def in_groups(plan: Plan, groups: Sequence[int]) -> Plan:
    steps = tuple(msgspec.structs.replace(s, group=g) for s, g in zip(plan.steps, groups, strict=True))
    return msgspec.structs.replace(plan, steps=steps)


@pytest.fixture
def sampler(tmp_path: Path):  # type: ignore[no-untyped-def]
    return load(write_bundle(tmp_path / "bundle", denoiser()))


def exact_of(sampler) -> LoadedGraph:  # type: ignore[no-untyped-def]
    return lambda feeds: sampler.denoiser({name: value for name, value in feeds.items() if name != GROUP})


def off_by(exact: LoadedGraph, numbers: Sequence[float], share: NDArray[np.float64] | None = None) -> LoadedGraph:
    """A body whose output is too small by a number for each group, times a share for each of two branches. A part of
    mean zero in each sample is beside it, larger than the number."""

    def run(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        output = exact(feeds)["v"]
        rough = np.resize(np.float32([0.3, -0.3]), output.shape)
        parts = np.ones(len(output)) if share is None else np.repeat(share, len(output) // 2)
        planted = numbers[int(feeds[GROUP][0])] * parts.reshape(-1, 1, 1, 1)
        return {"v": (output - planted + rough).astype(np.float32)}

    return run


def course_of(sampler, groups: Sequence[int], guidance: float | None = 2.0) -> Course:  # type: ignore[no-untyped-def]
    plan = in_groups(sampler.compile("dpmpp_2m:3", guidance), groups)
    return open_course(sampler, plan, range(600_000, 600_008))


def test_what_was_planted_in_each_group_is_found(sampler) -> None:  # type: ignore[no-untyped-def]
    course = course_of(sampler, [0, 1, 2])
    found = mean_error(course, off_by(exact_of(sampler), PLANTED), 1, 3)
    np.testing.assert_allclose(found, PLANTED[:, None], atol=1e-6)


def test_a_body_of_one_group_gets_the_mean_over_steps(sampler) -> None:  # type: ignore[no-untyped-def]
    course = course_of(sampler, [0, 1, 2])
    found = mean_error(course, off_by(exact_of(sampler), PLANTED), 1, 1)
    np.testing.assert_allclose(found, [[PLANTED.mean()]], atol=1e-6)


def test_branches_count_as_guidance_counts_them(sampler) -> None:  # type: ignore[no-untyped-def]
    """The same number on both branches makes of the guided output what was planted there: 2 * 1.0 - 0.5."""
    course, exact = course_of(sampler, [0, 1, 2], 2.0), exact_of(sampler)
    assert course.plan.steps[0].branches == ("cond", "uncond")
    found = mean_error(course, off_by(exact, PLANTED, np.array([1.0, 0.5])), 1, 3)
    np.testing.assert_allclose(found, 1.5 * PLANTED[:, None], atol=1e-6)


def test_with_it_samples_are_those_of_float32(sampler) -> None:  # type: ignore[no-untyped-def]
    course, exact = course_of(sampler, [0, 1, 2]), exact_of(sampler)

    def planted(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        return {"v": exact(feeds)["v"] - np.float32(PLANTED[int(feeds[GROUP][0])])}

    found = corrected(planted, "v", mean_error(course, planted, 1, 3), 1)
    assert course.quality(course.run([planted] * 3)).max() < 50
    assert course.quality(course.run([found] * 3)).min() > 120


def test_float32_is_not_asked_again(sampler) -> None:  # type: ignore[no-untyped-def]
    """What it made of its own inputs is known, and nothing is missing where the body is float32 itself."""
    course, exact = course_of(sampler, [0, 1, 2]), exact_of(sampler)
    inputs = []

    def body(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        inputs.append(feeds["x"][: len(feeds["x"]) // 2])
        return exact(feeds)

    np.testing.assert_array_equal(mean_error(course, body, 1, 3), np.zeros((3, 1)))
    for seen, state in zip(inputs, course.reference, strict=True):
        np.testing.assert_array_equal(seen, state.u)


def test_a_first_output_that_is_known_is_not_asked_for(sampler) -> None:  # type: ignore[no-untyped-def]
    course, body = course_of(sampler, [0, 1, 2]), off_by(exact_of(sampler), PLANTED)
    calls = []

    def counted(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        calls.append(int(feeds[GROUP][0]))
        return body(feeds)

    first = course.run([body] * 3)[0]
    known = after_first(counted, "v", joined(first.outputs, first.step))
    np.testing.assert_array_equal(mean_error(course, known, 1, 3), mean_error(course, body, 1, 3))
    assert calls == [1, 2]


def test_weights_that_cancel_are_alike_and_a_shaping_does_not_hide_them() -> None:
    plan = compile_plan("ddim:2", DenoiserFacts(SCHEDULE, "epsilon"), guidance=3.0)
    step = plan.steps[0]
    np.testing.assert_allclose(weights(step), [3.0, -2.0])
    rows = len(step.input)
    none = msgspec.structs.replace(step, x0=(*step.x0[:rows], 1.0, -1.0))
    np.testing.assert_allclose(weights(none), [0.5, 0.5])
    clipped = msgspec.structs.replace(
        step, shaping=Clip(-1.0, 1.0), shaping_of=(step.x0,), x0=(*[0.0] * (rows + 2), 1.0)
    )
    np.testing.assert_allclose(weights(clipped), [3.0, -2.0])
