"""Inputs and outputs of networks besides x and one output, on a tiny bundle with other descriptions."""

import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.plans import noise
from fewstep.plans.compile import compile_plan
from fewstep.plans.spec import DenoiserFacts
from fewstep.runtime import Hold, Sampler, UserError
from fewstep.runtime.bundle.manifest import Condition, TensorEntry
from fewstep.runtime.sampling.feeds import branch_values
from tests.bundles import with_manifest_fields
from tests.refusals import refuses

X_SHAPE = (1, 4, 4)
GIVEN = {"seeds": [3, 7], "condition": {"class": [0, 2]}}
IMAGES = np.random.default_rng(0).standard_normal((2, *X_SHAPE)).astype(np.float32)


def taking(sampler: Sampler, denoiser: Callable[..., Any], inputs: tuple[Any, ...] = (), **fields: Any) -> Sampler:
    """The tiny sampler with another network, which its manifest describes."""
    graph = msgspec.structs.replace(sampler.body.graph, inputs=(*sampler.body.graph.inputs, *inputs))
    body = msgspec.structs.replace(sampler.body, graphs=(graph,))
    return with_manifest_fields(sampler, **fields).with_network_parts(body=body, graph=denoiser)


def start_noise() -> np.ndarray:
    return np.stack([noise.normal(seed, 0, X_SHAPE) for seed in GIVEN["seeds"]])


@pytest.mark.parametrize("guidance", [None, 3.0])
def test_of_several_outputs_the_first_is_the_prediction(sampler: Sampler, guidance: float | None) -> None:
    def two(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        v = feeds["x"] / 2 + feeds["row"][:, :, None, None]
        return {"v": np.concatenate([v, 100 + v], axis=1)}

    double = taking(sampler, two, heads=2)
    expected = sampler.sample("dpmpp_2m:5", **GIVEN, guidance=guidance)
    np.testing.assert_allclose(double.sample("dpmpp_2m:5", **GIVEN, guidance=guidance), expected, rtol=1e-6)
    lanes = double.sample_each(["dpmpp_2m:5", "ddim:3"], **GIVEN, guidance=guidance)
    np.testing.assert_allclose(lanes[0], expected[0], rtol=1e-6)
    both = double.evaluate(IMAGES, 5, {"class": [0, 2]})
    np.testing.assert_allclose(both[:, 1] - both[:, 0], 100, rtol=1e-6)
    with refuses("reads 1 outputs of the denoiser"):
        double.sample(sampler.compile("ddim:3"), **GIVEN)


def test_a_scheduler_that_reads_more_than_an_old_bundle_has_needs_an_export(sampler: Sampler) -> None:
    """Its name, which the fix of other plans gives, is what the caller gave."""
    plan = sampler.compile("ddim:3")
    steps = tuple(msgspec.structs.replace(step, heads=2) for step in plan.steps)
    with refuses("reads 2 outputs of the denoiser at step 0, but it has 1", "export the denoiser again"):
        sampler.sample(msgspec.structs.replace(plan, name="scheduler:3", steps=steps), **GIVEN)


def test_a_degraded_sample_may_be_given_or_be_a_condition(sampler: Sampler) -> None:
    """With an exact network every solver ends at its answer, from any start."""
    seen = []

    def answer(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(feeds["x"])
        return {"v": np.full_like(feeds["x"], 0.25)}

    y = Condition("y", "degraded", X_SHAPE, "float32", None, -10, 10)
    takes = (*sampler.bundle.manifest.conditions, y)
    port = TensorEntry("degraded", "condition", ("batch", *X_SHAPE))
    restoring = taking(sampler, answer, (port,), towards="y", prediction="sample", conditions=takes)
    given = {"seeds": GIVEN["seeds"], "condition": {"class": [0, 2], "y": IMAGES}}
    np.testing.assert_allclose(restoring.sample("ddim:4", **given), 0.25, rtol=1e-5)
    sigma = restoring.compile("ddim:4").steps[0].sigma
    np.testing.assert_allclose(seen[0], IMAGES + sigma * start_noise(), rtol=1e-5)
    restoring.sample("ddim:4", **given, given={"y": 2 * IMAGES})
    np.testing.assert_allclose(seen[4], 2 * IMAGES + sigma * start_noise(), rtol=1e-5)
    with refuses(("'ddim:4'", "y"), "leave hold out"):
        restoring.sample("ddim:4", **given, hold=Hold(IMAGES, 1))


def test_a_network_of_two_times_gets_both_from_the_plan_or_the_caller(sampler: Sampler) -> None:
    seen = []

    def two_times(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(feeds["later"].tolist())
        return {"v": feeds["x"]}

    stated = taking(sampler, two_times, (TensorEntry("later", "to", ("batch",)),), prediction="sample")
    plan = stated.compile("ctm:3")
    stated.sample(plan, **GIVEN)
    assert [row for row, _ in seen] == pytest.approx([step.to for step in plan.steps])
    stated.evaluate(IMAGES, 50, {"class": [0, 2]}, to=[20, 10])
    assert seen[-1] == [20, 10]
    for call in (lambda: stated.sample("ddim:3", **GIVEN), lambda: stated.evaluate(IMAGES, 50, {"class": [0, 2]})):
        with pytest.raises(UserError, match="takes two times, but gets one"):
            call()
    with refuses("gets two", "dpmpp_2m:8"):
        sampler.sample(compile_plan("ctm:3", DenoiserFacts(sampler.bundle.manifest.schedule, "v")), **GIVEN)


def test_a_large_condition_is_there_once_for_all_steps(sampler: Sampler) -> None:
    """A condition that only the body takes: a megabyte, not one for each of 50 steps, and not an input of the
    prologue.
    """
    condition = Condition("picture", "picture", (256, 1024), "float32", None, -1, 1)
    picture = TensorEntry("picture", "condition", ("batch", 256, 1024))
    takes = (*sampler.bundle.manifest.conditions, condition)
    seen = []

    def denoiser(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(float(feeds["picture"].mean()))
        return {"v": feeds["x"]}

    seeing = taking(sampler, denoiser, (picture,), conditions=takes)
    given = {"class": [0], "picture": np.full((1, 256, 1024), 0.5, np.float32)}
    tracemalloc.start()
    seeing.sample("ddim:50", [0], given)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == [0.5] * 50 and peak < 10e6


@pytest.mark.parametrize("shared", [True, False])
def test_none_in_a_branch_needs_a_null_value(shared: bool) -> None:
    """A shared condition has the sample's value in all branches; None does not mean that value."""
    label = Condition("label", "group", low=0, high=2, shared=shared)
    with refuses("branch 'uncond' sets condition 'label' to None, but it has no null value"):
        branch_values((label,), {"label": [1]}, {"uncond": {"label": None}}, 1)


def test_none_in_a_branch_is_a_null_value_of_a_file() -> None:
    text, null = Condition("text", "text", (2,), "float32", null_file="null.npy"), np.array([3.0, 4.0], np.float32)
    values = branch_values((text,), {"text": [[1.0, 2.0]]}, {"uncond": {"text": None}}, 1, {"text": null})
    np.testing.assert_array_equal(values("uncond")["text"], [[3.0, 4.0]])
