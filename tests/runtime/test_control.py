"""Observations in, actions out, on a tiny bundle that is described as a policy of 4 actions, of which one is past."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.runtime import Sampler, UserError
from fewstep.runtime.bundle.manifest import Condition, Policy
from fewstep.runtime.control import History, sample_actions, ticks_of_delay

FIRST, SCALE, SHIFT = 1, 20.0, 5.0


@pytest.fixture
def sampler(tiny_bundle: Path) -> Sampler:
    path = tiny_bundle / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    manifest["policy"] = {"observations": 2, "first": 0, "actions": 1}
    manifest["units"] = {"scale": [SCALE] * 4, "shift": [SHIFT] * 4}
    path.write_bytes(msgspec.json.encode(manifest))
    return fewstep.runtime.load(tiny_bundle)


def seeing(sampler: Sampler) -> Sampler:
    """The same with a condition of two readings of two numbers, on a network that ignores them."""
    manifest = sampler.bundle.manifest
    conditions = (Condition("state", "state", (2, 2), "float32", typical=(0.0, 1.0)),)
    graph = msgspec.structs.replace(sampler.body.graph, inputs=sampler.body.graph.inputs[:1])
    manifest = msgspec.structs.replace(
        manifest,
        conditions=conditions,
        prologue=None,
        prediction="sample",
        x_shape=(4, 3),
        policy=Policy(2, FIRST, 2),
        units=msgspec.structs.replace(manifest.units, scale=(SCALE,) * 3, shift=(SHIFT,) * 3),
    )
    return replace(
        sampler,
        bundle=replace(sampler.bundle, manifest=manifest),
        body=msgspec.structs.replace(sampler.body, graph=graph),
        prologue=None,
        denoiser=lambda feeds: {"v": np.broadcast_to(np.float32([[0.0], [0.1], [0.2], [0.3]]), feeds["x"].shape)},
    )


def test_the_first_observation_stands_for_those_before_it(sampler: Sampler) -> None:
    history = History(seeing(sampler))
    history.add({"state": [1.0, 2.0]})
    assert history.window()["state"].tolist() == [[1, 2], [1, 2]]
    window = history.window()
    for number in (3.0, 4.0):
        history.add({"state": [number, number]})
    assert history.window()["state"].tolist() == [[3, 3], [4, 4]] and window["state"].tolist() == [[1, 2], [1, 2]]
    history.clear()
    with pytest.raises(UserError, match="nothing has been observed"):
        history.window()


def test_an_observation_is_kept_as_it_was(sampler: Sampler) -> None:
    history, buffer = History(seeing(sampler)), np.zeros(2)
    history.add({"state": buffer})
    buffer += 7
    assert history.window()["state"].max() == 0


def test_what_is_missing_or_of_another_shape_is_named(sampler: Sampler) -> None:
    history = History(seeing(sampler))
    with pytest.raises(UserError, match="the observation has no 'state'"):
        history.add({"stat": [1.0, 2.0]})
    with pytest.raises(UserError, match=r"observation 'state' has the shape \[3\]; give \[2\]"):
        history.add({"state": [1.0, 2.0, 3.0]})
    with pytest.raises(UserError, match="observation 'state' is no array"):
        history.add({"state": [1.0, [2.0]]})


def test_a_condition_that_is_not_observed_at_each_tick_is_left_to_the_caller(sampler: Sampler) -> None:
    policy = seeing(sampler)
    manifest = policy.bundle.manifest
    task = Condition("task", "task", low=0, high=3)
    manifest = msgspec.structs.replace(manifest, conditions=(*manifest.conditions, task))
    policy = replace(policy, bundle=replace(policy.bundle, manifest=manifest))
    history = History(policy)
    history.add({"state": [1.0, 2.0], "temperature": 20.0})  # the robot measures more than the policy sees
    assert list(history.window()) == ["state"]
    assert sample_actions(policy, "ddim:2", {**history.window(), "task": np.array(2)}).shape == (3, 3)


def test_actions_start_now_and_are_in_units(sampler: Sampler) -> None:
    policy = seeing(sampler)
    actions = sample_actions(policy, policy.compile("ddim:2"), {"state": np.zeros((2, 2))})
    np.testing.assert_allclose(actions, SHIFT + SCALE * np.float32([[0.1] * 3, [0.2] * 3, [0.3] * 3]), rtol=1e-5)


def test_actions_under_way_are_kept_and_the_others_are_new(sampler: Sampler) -> None:
    policy = seeing(sampler)
    window, decided = {"state": np.zeros((2, 2))}, np.float32([[9.0, 4.0, 5.0]])
    actions = sample_actions(policy, "ddim:2", window, under_way=decided)
    np.testing.assert_allclose(actions[0], decided[0], rtol=1e-5)
    np.testing.assert_allclose(actions[1:, 0], [SHIFT + SCALE * 0.2, SHIFT + SCALE * 0.3], rtol=1e-5)
    assert sample_actions(policy, "ddim:2", window, under_way=[])[0].tolist() == pytest.approx(
        [SHIFT + SCALE * 0.1] * 3
    )
    with pytest.raises(UserError, match="actions under way are no array of numbers"):
        sample_actions(policy, "ddim:2", window, under_way=[[1.0, 2.0, 3.0], [1.0]])
    with pytest.raises(UserError, match=r"actions under way have the shape \[4, 3\].* at most 3"):
        sample_actions(policy, "ddim:2", window, under_way=np.zeros((4, 3)))


def test_a_policy_that_observes_nothing_of_that_length_has_no_history(sampler: Sampler) -> None:
    policy = seeing(sampler)
    manifest = msgspec.structs.replace(policy.bundle.manifest, policy=Policy(2**31, FIRST, 2))
    with pytest.raises(UserError, match="no condition of 2147483648 observations"):
        History(replace(policy, bundle=replace(policy.bundle, manifest=manifest)))


def test_the_delay_is_that_of_the_slowest_call() -> None:
    assert ticks_of_delay([0.010, 0.051, 0.049], rate=20) == 2 and ticks_of_delay([], rate=20) == 0


def test_a_bundle_that_is_no_policy_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="does not say how many observations it takes"):
        History(fewstep.runtime.load(tiny_bundle))
